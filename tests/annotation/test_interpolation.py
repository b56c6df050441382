"""Slices between those that are right: by shape, by what was corrected in them, and along the image."""

import numpy as np
import pytest

from napari_transunet.annotation.corrections import Scope
from napari_transunet.annotation.interpolation import interpolate
from napari_transunet.annotation.slice_registration import SliceRegistration
from napari_transunet.errors import InputError
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume
from tests.annotation.blobs import blob

ISO = (1.0, 1.0, 1.0)
ONE = Scope((1,))


def disc(row, column, radius, side=48):
    y, x = np.mgrid[:side, :side]
    return ((y - row) ** 2 + (x - column) ** 2 <= radius**2).astype(np.uint8)


def between(labels, slices, found=None, spacing=ISO, scope=ONE, registration=None):
    result = labels.copy()
    made = interpolate(labels, spacing, scope, axis=0, slices=slices, found=found, registration=registration)
    for write in made.writes:
        assert np.array_equal(result[write.index], write.before)
        result[write.index] = write.after
    assert np.array_equal(result[slices], labels[slices])
    return result


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def test_slices_between_are_filled_by_shape():
    labels = np.zeros((7, 48, 48), np.uint8)
    labels[0], labels[6] = disc(20, 20, 5), disc(20, 20, 11)
    result = between(labels, [0, 6])
    radii = [np.sqrt((plane == 1).sum() / np.pi) for plane in result]
    assert np.allclose(np.diff(radii), 1, atol=0.25)
    with pytest.raises(InputError, match="two slices"):
        interpolate(labels, ISO, ONE, axis=0, slices=[3])
    with pytest.raises(InputError, match="slices 0 to 6"):
        interpolate(labels, ISO, ONE, axis=0, slices=[3, 9])


@pytest.fixture
def bulging():
    """An organ that bulges twice; a network sees that and misses its rim."""
    radii = 10 + 4 * np.sin(np.arange(25) / 2)
    return tuple(np.stack([disc(24, 24, radius - missed) for radius in radii]) for missed in (0, 3))


def test_corrections_are_carried_on_where_the_network_sees_the_organ(bulging):
    truth, found = bulging
    labels, given = found.copy(), [0, 7, 12, 16, 24]
    labels[given] = truth[given]
    by_shape, by_corrections = between(labels, given), between(labels, given, found)
    assert dice(by_corrections, truth) > 0.97
    assert dice(by_shape, truth) < 0.93 > dice(labels, truth)
    turned = interpolate(labels.T.copy(), ISO, ONE, axis=2, slices=given, found=found.T.copy())
    assert turned.changed == (by_corrections != labels).sum()


def test_a_network_that_sees_nothing_is_not_asked(bulging):
    truth, _ = bulging
    labels, given = np.zeros_like(truth), [0, 6, 12, 18, 24]
    labels[given] = truth[given]
    places = np.random.default_rng(0).integers(10, 38, (len(truth), 2))
    elsewhere = np.stack([disc(row, column, 8) for row, column in places])
    for found in (np.zeros_like(truth), elsewhere):
        assert np.array_equal(between(labels, given, found), between(labels, given))


def test_what_was_not_corrected_stays(bulging):
    _, found = bulging
    given = [0, 7, 12, 16, 24]  # the shapes would say something else
    assert not np.array_equal(between(found, given), found)
    assert np.array_equal(between(found, given, found), found)
    found[6, 2:5, 2:5] = 2  # neither slice shows it
    labels = found.copy()
    labels[0, 3:7, 30:34] = 1
    result = between(labels, [0, 12], found, scope=Scope((1, 2)))
    assert np.array_equal(result == 2, found == 2)


def test_what_was_taken_away_in_both_slices_goes_in_between(bulging):
    truth, found = bulging
    found = found.copy()
    found[:, 40:45, 40:45] = 2
    labels = found.copy()
    labels[[4, 9]] = truth[[4, 9]]
    result = between(labels, [4, 9], found, scope=Scope((1, 2)))
    assert not (result[4:10] == 2).any()
    assert np.array_equal(result[[*range(4), *range(10, 25)]], labels[[*range(4), *range(10, 25)]])


def test_what_one_slice_shows_alone_fades():
    found = np.zeros((41, 48, 48), np.uint8)
    labels = found.copy()
    labels[0] = disc(24, 24, 15)
    areas = between(labels, [0, 40], found).sum(axis=(1, 2), dtype=int)
    assert (np.diff(areas) <= 0).all()
    assert areas[9] > 0 == areas[10]
    shown = [
        np.count_nonzero(between(labels, [0, last], found, (step, 1.0, 1.0)).any(axis=(1, 2)))
        for last, step in ((6, 1.0), (40, 4.0))
    ]
    assert shown == [3, 3]  # half the way, and 10 mm
    assert np.array_equal(between(labels, [0, 40]), labels)  # by shape it is not known how far it goes


@pytest.fixture
def swinging():
    """An organ that swings from side to side, and how an image shows it."""
    columns = 24 + 8 * np.sin(np.arange(13) * np.pi / 6)
    return (
        np.stack([disc(24, column, 7) for column in columns]),
        np.stack([blob((48, 48), 24, column, 7) for column in columns]),
    )


def registered(image, axis=0):
    geometry = Geometry(image.shape, ISO, (0.0, 0.0, 0.0))
    return SliceRegistration(Volume(image, geometry, "MR", Source(None, "array", "swinging")), axis)


def test_outlines_follow_the_image(swinging):
    truth, image = swinging
    labels, given = np.zeros_like(truth), [0, 4, 12]
    labels[given] = truth[given]
    assert dice(between(labels, given), truth) < 0.75
    along = between(labels, given, registration=registered(image))
    assert dice(along, truth) > 0.93
    turned = interpolate(
        labels.T.copy(), ISO, ONE, axis=2, slices=given, registration=registered(image.T.copy(), 2)
    )
    assert turned.changed == (along != labels).sum()
    with pytest.raises(InputError, match="image's slices"):
        between(labels, given, registration=registered(image[1:]))


def test_an_image_that_moves_otherwise_changes_nothing(swinging):
    _, image = swinging
    labels, given = np.zeros((13, 48, 48), np.uint8), [0, 4, 8, 12]
    for index in given:
        labels[index] = disc(24, 24, 6 + index / 4)
    along = between(labels, given, registration=registered(image))
    assert np.array_equal(along, between(labels, given))


def test_corrections_follow_the_image_too(swinging):
    truth, image = swinging
    found = np.stack([np.where(np.arange(48) < 24, plane, 0) for plane in truth])  # its left half alone
    labels, given = found.copy(), [0, 4, 8, 12]
    labels[given] = truth[given]
    without, along = (
        dice(between(labels, given, found, registration=one), truth) for one in (None, registered(image))
    )
    assert along > without + 0.1
