"""Saving a labels layer through napari's own Save: grid, names, and what is never overwritten."""

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from napari import current_viewer
from napari.layers import Layer

from napari_transunet.annotation.provenance import RunRecord
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.errors import ExistsError, FileProblem
from napari_transunet.export.writing import request_for
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import WRITABLE_SUFFIXES, write_volume
from napari_transunet.viewer.export.snapshot import snapshot, write_snapshot
from napari_transunet.viewer.layers.layers import add_volume, labels_to_layer
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Source, Volume

SHAPE = (4, 6, 8)
COS, SIN = np.cos(0.3), np.sin(0.3)
OBLIQUE = Geometry(
    SHAPE, (2.5, 0.7, 0.8), (-30.0, 40.0, -500.0), ((COS, -SIN, 0.0), (SIN, COS, 0.0), (0.0, 0.0, -1.0))
)
NAMES = LabelSet.from_names({1: "liver", 2: "spleen"})


@pytest.fixture
def layer(make_napari_viewer, tmp_path):
    viewer = make_napari_viewer()
    image = Volume(np.zeros(SHAPE, np.int16), OBLIQUE, "CT", Source(None, "test", "scan"))
    path = write_volume(tmp_path / "scan.nii.gz", image)
    add_volume(viewer, read_volume(path))
    data = np.zeros(SHAPE, np.uint8)
    data[1, 2:4, 3:5], data[2, 1, 1] = 1, 2
    made = Layer.create(*labels_to_layer(data, read_volume(path), NAMES, "scan labels"))
    viewer.add_layer(made)
    return made


def test_napari_saves_labels_on_the_oblique_grid_of_the_scan(layer, tmp_path):
    layer.data[0, 0, 0] = 2  # a person's brush
    layer.colormap = {**layer.colormap.color_dict, 2: "#10f0a0"}
    for number, suffix in enumerate(WRITABLE_SUFFIXES):
        target = tmp_path / f"out{number}{suffix}"
        written = layer.save(str(target), plugin="napari-transunet")
        assert written[0] == str(target)  # before 0.7 napari tells of the first file alone
        image = sitk.ReadImage(str(target))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), layer.data)
        np.testing.assert_allclose(image.GetSpacing(), OBLIQUE.spacing[::-1], atol=1e-4)
        np.testing.assert_allclose(image.GetOrigin(), OBLIQUE.origin, atol=1e-4)
        np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), OBLIQUE.direction, atol=1e-4)
        described = json.loads((tmp_path / f"out{number}.json").read_text())
        assert {entry["value"]: entry["name"] for entry in described["labels"]} == NAMES.names
        assert read_volume(target).labels.names == NAMES.names
        assert read_volume(target).labels.get(2).hex == "#10f0a0"


def test_what_made_labels_is_told_also_where_they_are_saved_over_their_file(layer, tmp_path):
    viewer = current_viewer()
    image = viewer.layers["scan"]
    session = AnnotationSession(SHAPE, NAMES.names)
    session.add_run(RunRecord.of_no_network("organs", "imported", "imported", total=4, axis=0))
    sessions_of(viewer).bind_result(layer, image, session)
    (first, _) = layer.save(str(tmp_path / "a.nii.gz"), plugin="napari-transunet")
    told = json.loads((tmp_path / "a.json").read_text())["provenance"]
    assert told["checkpoint"] == "organs"
    assert told["edited_voxels"] == np.count_nonzero(layer.data)
    again = add_volume(viewer, read_volume(first))
    again.data[0, 0, 0] = 2
    for _ in range(2):
        again.save(first, plugin="napari-transunet")
        opened = json.loads((tmp_path / "a.json").read_text())["provenance"]["opened"]
        assert opened == told


def test_layer_without_our_metadata_is_saved_where_it_is_displayed(make_napari_viewer, tmp_path):
    viewer = make_napari_viewer()
    layer = viewer.add_labels(
        np.ones(SHAPE, np.int32),
        scale=(2, 1, 1),
        translate=(5, 6, 7),
        features={"index": [1], "name": ["aorta"]},
    )
    layer.save(str(tmp_path / "out.nii.gz"), plugin="napari-transunet")
    back = read_volume(tmp_path / "out.nii.gz")
    assert back.geometry.spacing == (2, 1, 1)
    np.testing.assert_allclose(back.geometry.origin, (7, 6, 5))
    assert back.labels.names == {1: "aorta"}


def test_the_scan_itself_is_never_written_over(layer, tmp_path):
    before = (tmp_path / "scan.nii.gz").read_bytes()
    with pytest.raises(FileProblem, match="scan itself"):
        layer.save(str(tmp_path / "scan.nii.gz"), plugin="napari-transunet")
    assert (tmp_path / "scan.nii.gz").read_bytes() == before


def test_saving_again_replaces_what_the_dialog_has_asked_about(layer, tmp_path):
    for value in (1, 2):
        layer.data[:] = value
        layer.save(str(tmp_path / "out.nii.gz"), plugin="napari-transunet")
    assert (read_volume(tmp_path / "out.nii.gz").data == 2).all()


def test_the_json_file_of_a_scan_is_never_replaced(layer, tmp_path):
    (tmp_path / "ct.json").write_text('{"Modality": "CT"}')
    for save in (
        lambda path: layer.save(str(path), plugin="napari-transunet"),
        lambda path: write_snapshot(snapshot(layer), request_for(path, overwrite=True)),
    ):
        with pytest.raises(ExistsError, match=r"ct\.json"):
            save(tmp_path / "ct.nrrd")
    assert (tmp_path / "ct.json").read_text() == '{"Modality": "CT"}'
    assert not (tmp_path / "ct.nrrd").exists()


def test_what_was_assumed_of_labels_is_told_until_they_lie_on_a_scan(make_napari_viewer, tmp_path):
    viewer = make_napari_viewer()
    scan = Volume(np.zeros(SHAPE, np.int16), OBLIQUE, "CT", Source(None, "test", "scan"))
    origin = tuple((OBLIQUE.affine_lps @ [0, 0, 2, 1.0])[:3].tolist())
    thick = replace(OBLIQUE, shape=(1, *SHAPE[1:]), spacing=(7.0, *OBLIQUE.spacing[1:]), origin=origin)
    told = "The only slice was taken as 7 mm thick."
    file = Source(
        None, "DICOM segmentation", "seg", notes=(told,), omits_background=True, assumes_distance=True
    )
    labels = Volume(np.ones(thick.shape, np.uint8), thick, None, file, NAMES)
    one = add_volume(viewer, labels)
    one.save(str(tmp_path / "alone.nrrd"), plugin="napari-transunet")
    assert json.loads((tmp_path / "alone.json").read_text())["provenance"]["reading_notes"] == [told]
    image = add_volume(viewer, scan)
    assert sessions_of(viewer).images_covered_by(one) == [image]
    sessions_of(viewer).assign_image(one, image)
    assert [int(plane.sum()) for plane in one.data] == [0, 0, one.data[0].size, 0]
    one.save(str(tmp_path / "placed.nrrd"), plugin="napari-transunet")
    assert "reading_notes" not in json.loads((tmp_path / "placed.json").read_text())["provenance"]
    assert read_volume(tmp_path / "placed.nrrd").geometry.matches(OBLIQUE)
