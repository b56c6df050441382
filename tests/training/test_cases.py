import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.errors import DatasetError, InputError, VolumeError
from napari_transunet.inference.resize import make_resize
from napari_transunet.inference.slices import SliceSource
from napari_transunet.training import cases as module
from napari_transunet.training.cases import (
    Case,
    PreparationCancelled,
    class_labels,
    prepare_case,
    prepare_cases,
    resized_classes,
)
from napari_transunet.training.datasets import open_dataset
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.orientation import Reorientation
from napari_transunet.volumes.volume import Source, Volume

CARD = ModelCard(
    variant="R50-ViT-Ti_16",
    num_classes=3,
    img_size=(64, 64),
    n_skip=3,
    modality="CT",
    orientation="LPS",
    spacing=(None, 2.0, 2.0),
    resize="pad",
)
GRID = Geometry((3, 50, 40), (3.0, 1.0, 1.0))
ORIENTATIONS = [
    "".join(codes)
    for order in itertools.permutations(("LR", "PA", "SI"))
    for codes in itertools.product(*order)
]


def volume(data: np.ndarray, geometry: Geometry = GRID, name: str = "scan") -> Volume:
    return Volume(data, geometry, "CT", Source(None, "array", name))


@pytest.fixture
def scan() -> Volume:
    data = np.full(GRID.shape, -1000, np.int16)
    data[:, 10:40, 5:35] = 75
    data[:, 12:20, 8:30] = 30
    return volume(data)


@pytest.fixture
def organs() -> Volume:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[1, 12:22, 6:16] = 52
    return volume(labels)


def prepare(image: Volume, labels: Volume, classes: dict[int, int] | None = None, **options: Any) -> Case:
    options = {"card": CARD, "name": "scan", "patient": "someone"} | options
    return prepare_case(image, labels, classes or {52: 1}, **options)


def stored_as(whole: Volume, codes: str) -> Volume:
    """The same volume with its axes in another order and sense."""
    turn = Reorientation.between(whole.geometry, codes)
    return volume(
        np.ascontiguousarray(turn.apply(whole.data)), whole.geometry.reoriented(turn.axes, turn.flips)
    )


def test_values_that_are_not_wanted_become_background() -> None:
    labels = np.array([[0, 1, 52, 90, 117]])
    assert class_labels(labels, {1: 2, 52: 1}).tolist() == [[0, 2, 1, 0, 0]]


def test_a_case_has_the_networks_size_and_range(scan: Volume, organs: Volume) -> None:
    case = prepare(scan, organs)
    assert (case.name, case.patient, len(case)) == ("scan", "someone", 3)
    assert case.planes.shape == case.labels.shape == (3, 64, 64)
    assert (case.planes.dtype, case.labels.dtype) == (torch.float16, torch.uint8)
    assert case.nbytes == 3 * 64 * 64 * 3
    assert case.planes.min() == 0
    assert case.planes.max() == pytest.approx((75 + 125) / 400, abs=1e-3)
    # 2 mm pixels of 1 mm ones: a quarter as many.
    assert int((case.labels == 1).sum()) == pytest.approx(25, abs=6)
    assert case.labels.flatten(1).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "plane", "step", "pixel"),
    [
        ({}, "z", 3.0, 2.0),
        ({}, "y", 1.0, 2.5),
        ({"resize": "squash"}, "z", 3.0, (50 + 40) / 64 / 2),
        ({"spacing": (None, 0.5, None)}, "z", 3.0, 50 / 32 * (0.5 + 1.0) / 2),  # enlarged, to fit
    ],
)
def test_a_case_knows_what_lies_between_its_slices_and_pixels(
    scan: Volume, organs: Volume, changes: dict[str, Any], plane: Any, step: float, pixel: float
) -> None:
    case = prepare(scan, organs, card=CARD.updated(**changes), plane=plane)
    assert (case.step, case.pixel) == (pytest.approx(step), pytest.approx(pixel))


@pytest.mark.parametrize("card", [CARD, CARD.updated(normalisation="percentiles", window=None, context=3)])
def test_planes_are_what_the_predictor_would_see(scan: Volume, organs: Volume, card: ModelCard) -> None:
    turned = stored_as(scan, "AIL")
    source = SliceSource.from_card(turned, card, card.img_size)
    own = [source.orientation.original_index(z, turned.data.shape) for z in range(len(source))]
    seen = source.images(own)[:, card.context // 2]
    torch.testing.assert_close(prepare(turned, organs, card=card).planes.float(), seen, atol=1e-3, rtol=0)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_labels_in_another_orientation_are_turned_to_the_image(
    scan: Volume, organs: Volume, codes: str
) -> None:
    straight, turned = prepare(scan, organs), prepare(scan, stored_as(organs, codes))
    assert torch.equal(straight.labels, turned.labels)
    both = prepare(stored_as(scan, codes), organs)
    assert torch.equal(straight.planes, both.planes)
    assert torch.equal(straight.labels, both.labels)


def test_without_an_orientation_slices_stay_as_stored(scan: Volume, organs: Volume) -> None:
    card = CARD.updated(resize="squash").model_copy(update={"orientation": None})
    flipped = prepare(stored_as(scan, "LAS"), organs, card=card)
    straight = prepare(scan, organs, card=card)
    assert torch.equal(flipped.labels, straight.labels.flip(1))
    torch.testing.assert_close(flipped.planes, straight.planes.flip(1), atol=1e-3, rtol=0)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["squash", "pad"]), st.integers(4, 40), st.integers(4, 40))
def test_classes_are_resized_as_one_hot_planes(seed: int, how: Any, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 5, (3, height, width), dtype=np.uint8) * (rng.random((3, 1, 1)) < 0.7)
    classes[:, : height // 3] = 0
    resize = make_resize(how, (1.0, 1.3), (height, width), (16, 24), (1.7, 2.1))
    got = resized_classes(classes.astype(np.uint8), resize)
    shares = torch.nn.functional.one_hot(torch.from_numpy(classes).long(), 5).permute(0, 3, 1, 2).float()
    shares = resize.forward(shares).double()
    # Where two classes have equal shares, rounding decides between them.
    reached = shares.gather(1, got[:, None].long())[:, 0]
    torch.testing.assert_close(reached, shares.amax(1), atol=1e-6, rtol=0)


def test_many_slices_are_prepared_in_parts(
    scan: Volume, organs: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(scan, organs)
    monkeypatch.setattr(module, "_PIXELS_AT_ONCE", 4001)
    parts = prepare(scan, organs)
    assert torch.equal(whole.planes, parts.planes)
    assert torch.equal(whole.labels, parts.labels)


def test_scaled_values_stay_as_they_are(scan: Volume, organs: Volume) -> None:
    scaled = volume(scan.data.clip(0, 75) / np.float32(75))
    case = prepare(scaled, organs, scaled=True)
    assert case.planes.max() == 1
    with pytest.raises(DatasetError, match=r"scan: its image reaches from -1000 to 75, .* 0\.\.1; scale"):
        prepare(scan, organs, scaled=True)


def test_other_values_may_be_background(scan: Volume, organs: Volume) -> None:
    organs.data[0, 20:30, 20:30] = 7
    with pytest.raises(DatasetError, match="scan: its labels hold 7, which no class is for; name"):
        prepare(scan, organs)
    case = prepare(scan, organs, others_are_background=True)
    assert case.labels.unique().tolist() == [0, 1]


def test_labels_may_be_whole_floats(scan: Volume, organs: Volume) -> None:
    floats = prepare(scan, volume(organs.data.astype(np.float64)))
    assert torch.equal(floats.labels, prepare(scan, organs).labels)
    with pytest.raises(DatasetError, match=r"scan: Labels must be whole numbers.*0\.5"):
        prepare(scan, volume(np.full(GRID.shape, 0.5)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"origin": (0.0, 0.0, 246.0)}, r"origin 0 × 0 × 0 and 0 × 0 × 246 mm"),
        ({"spacing": (3.0, 1.0, 1.1)}, r"spacing 3 × 1 × 1 and 3 × 1 × 1\.1 mm"),
        ({"shape": (3, 50, 41)}, r"3 × 50 × 40 and 3 × 50 × 41 voxels along z, y, x"),
        ({"direction": ((0.98, -0.199, 0), (0.199, 0.98, 0), (0, 0, 1))}, "turned against each other"),
    ],
)
def test_labels_on_another_grid_are_refused(scan: Volume, change: dict[str, Any], sentence: str) -> None:
    grid = dataclasses.replace(GRID, **change)
    with pytest.raises(DatasetError, match=rf"scan: image and labels lie on different grids \({sentence}"):
        prepare(scan, volume(np.ones(grid.shape, np.uint8), grid))


@pytest.mark.parametrize("omits", [True, False])
@pytest.mark.parametrize("codes", ["LPS", "LPI", "ASR"])
def test_labels_on_a_part_of_the_image_are_put_onto_it(
    scan: Volume, organs: Volume, codes: str, omits: bool
) -> None:
    grid = dataclasses.replace(GRID, origin=(30.0, 40.0, 50.0))  # at zero it would say no position
    scan, organs = (dataclasses.replace(one, geometry=grid) for one in (scan, organs))
    box = np.s_[1:3, 0:50, 2:40]
    origin = tuple((grid.affine_lps @ [2, 0, 1, 1.0])[:3].tolist())
    part = dataclasses.replace(grid, shape=(2, 50, 38), origin=origin)
    cut = stored_as(volume(organs.data[box], part), codes)
    cut = dataclasses.replace(cut, source=dataclasses.replace(cut.source, omits_background=omits))
    case, whole = prepare(scan, cut), prepare(scan, organs)
    torch.testing.assert_close(case.labels[1:, :, 24:40], whole.labels[1:, :, 24:40])
    if omits:
        torch.testing.assert_close(case.labels, whole.labels)
    else:
        # 40 of 64 pixels' width (2 mm) are the image; beyond it lies nothing, and left of the labels nobody knows.
        assert (case.labels[0] == 255).sum() == pytest.approx(
            25 * 20, abs=20
        )  # with half a row at the border
        assert (case.labels[1:] == 255).sum() == pytest.approx(2 * 25, abs=4)
    told: list[str] = []
    prepare_cases([Made("a", scan, cut), Made("b", scan, cut)], {52: 1}, CARD, noted=told.append)
    assert len(told) == 1
    assert "a and 1 more" in told[0]
    assert "slices 1 to 2 of 0 to 2 along z, slices 2 to 39 of 0 to 39 along x" in told[0]
    assert ("background" if omits else "unknown") in told[0]


def test_rounding_in_headers_is_no_other_grid(scan: Volume, organs: Volume) -> None:
    rounded = dataclasses.replace(GRID, spacing=(3.004, 1.0, 1.0), origin=(0.0, 0.009, 0.0))
    assert torch.equal(prepare(scan, volume(organs.data, rounded)).labels, prepare(scan, organs).labels)


def test_cases_with_nothing_to_learn_are_refused(scan: Volume, organs: Volume) -> None:
    with pytest.raises(DatasetError, match="scan: its labels are empty"):
        prepare(scan, volume(np.zeros(GRID.shape, np.uint8)))
    with pytest.raises(DatasetError, match="scan: its labels hold none of 7 but 52"):
        prepare(scan, organs, {7: 1}, others_are_background=True)
    with pytest.raises(DatasetError, match="none of 7 but 52"):
        prepare(scan, organs, {7: 1, 52: 0})


def test_images_that_are_not_finite_are_refused(scan: Volume, organs: Volume) -> None:
    data = scan.data.astype(np.float32)
    data[0, 0, :2] = np.nan, np.inf
    with pytest.raises(DatasetError, match="scan: 2 voxels of its image are NaN or infinite"):
        prepare(volume(data), organs)


def test_classes_beyond_the_card_are_refused(scan: Volume, organs: Volume) -> None:
    with pytest.raises(InputError, match="no class 3 among the 3"):
        prepare(scan, organs, {52: 3})


@dataclasses.dataclass(frozen=True)
class Made:
    """A `LabelledVolume` in memory."""

    name: str
    image: Volume | Exception
    labels: Volume

    @property
    def patient(self) -> str:
        return f"patient of {self.name}"

    def read(self) -> tuple[Volume, Volume]:
        if isinstance(self.image, Exception):
            raise self.image
        return self.image, self.labels

    def read_labels(self) -> Volume:
        return self.labels


def test_cases_are_prepared_in_order(scan: Volume, organs: Volume) -> None:
    told: list[tuple[int, int]] = []
    cases = prepare_cases(
        [Made("b", scan, organs), Made("a", scan, organs)],
        {52: 1},
        CARD,
        progress=lambda done, total: told.append((done, total)),
    )
    assert [(case.name, case.patient) for case in cases] == [("b", "patient of b"), ("a", "patient of a")]
    assert told == [(1, 2), (2, 2)]


def test_every_bad_case_is_told_in_one_error(scan: Volume, organs: Volume) -> None:
    empty = volume(np.zeros(GRID.shape, np.uint8))
    bad = [
        Made("gone", VolumeError("gone.nii: the file is empty."), organs),
        Made("huge", MemoryError(), organs),
        *(Made(f"empty{number}", scan, empty) for number in range(20)),
    ]
    with pytest.raises(DatasetError) as raised:
        prepare_cases([Made("good", scan, organs), *bad], {52: 1}, CARD)
    text = str(raised.value)
    assert text.startswith(
        "22 of 23 cases cannot be used: gone: gone.nii: the file is empty; huge: it does not fit into memory;"
        " empty0: its labels are empty;"
    )
    assert text.endswith("; and 2 more.")
    assert "empty17" in text
    assert "empty18" not in text
    with pytest.raises(
        DatasetError, match=r"^empty0: its labels are empty; label it, or take the case out\.$"
    ):
        prepare_cases(bad[2:3], {52: 1}, CARD)


def test_images_of_another_modality_than_is_trained_for_are_told(scan: Volume, organs: Volume) -> None:
    mr, dark = (dataclasses.replace(scan, modality=one) for one in ("MR", None))
    dark = dataclasses.replace(dark, data=np.abs(scan.data))
    ct = CARD.updated(modality="CT")
    told: list[str] = []
    cases = [Made("a", dataclasses.replace(scan, modality="CT"), organs), Made("b", mr, organs)]
    prepare_cases([*cases, Made("c", dark, organs)], {52: 1}, ct, noted=told.append)
    assert len(told) == 2
    assert all(word in told[0] for word in ("b", "MR", "CT"))
    assert told[1].startswith("Note on c: its image looks like MR")


def test_memory_is_checked_by_the_first_case(
    scan: Volume, organs: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Made("a", scan, organs)
    of_one = 3 * 64 * 64 * 3
    monkeypatch.setattr(module, "available_memory", lambda: int(of_one * 2.6))
    assert len(prepare_cases([case] * 3, {52: 1}, CARD)) == 3
    monkeypatch.setattr(module, "available_memory", lambda: int(of_one * 2.4))
    with pytest.raises(DatasetError, match=r"3 cases of about 3 slices of 64 × 64 need .* GB of memory, but"):
        prepare_cases([case] * 3, {52: 1}, CARD)


def test_label_files_that_number_organs_otherwise_are_refused(scan: Volume) -> None:
    def named(case: str, names: dict[int, str]) -> Made:
        labels = np.zeros(GRID.shape, np.uint8)
        labels[1, 12:22, 6:16], labels[1, 24:30, 6:16] = sorted(names)
        return Made(case, scan, dataclasses.replace(volume(labels), labels=LabelSet.from_names(names)))

    told: list[str] = []
    card = CARD.updated(labels=({"value": 1, "name": "spleen"}, {"value": 2, "name": "liver"}))
    good, swapped = named("good", {1: "Spleen", 2: "Liver"}), named("swapped", {1: "liver", 2: "spleen"})
    background, other = (
        named("background", {1: "spleen", 8: "Liver"}),
        named("other", {1: "spleen", 2: "lobe"}),
    )
    wanted: dict[int, int] = {0: 0, 1: 1, 2: 2}
    prepare_cases([good, other], wanted, card, noted=told.append)
    assert told == ["Note on other: its labels call 2 'lobe', which is learnt as 'liver'."]
    with pytest.raises(DatasetError, match=r"swapped: its labels call 1 'liver', the dataset 'spleen'"):
        prepare_cases([good, swapped], wanted, card)
    with pytest.raises(DatasetError, match="'Liver', which is background"):
        prepare_cases([good, background], wanted, card, others_are_background=True)
    assert len(prepare_cases([good, good], wanted, CARD)) == 2  # nothing but the files names them
    with pytest.raises(DatasetError, match=r"swapped: its labels call 1 'liver', those of good 'Spleen'"):
        prepare_cases([good, swapped], wanted, CARD)


def test_preparing_can_be_cancelled(scan: Volume, organs: Volume) -> None:
    told: list[int] = []
    with pytest.raises(PreparationCancelled):
        prepare_cases(
            [Made("a", scan, organs)] * 3,
            {52: 1},
            CARD,
            progress=lambda done, total: told.append(done),
            cancelled=lambda: len(told) == 2,
        )
    assert told == [1, 2]


def test_real_hippocampi(shared_data: Path) -> None:
    folder = shared_data / "data" / "hippocampus_mr"
    if not folder.is_dir():
        pytest.skip(f"the hippocampus images are not at {folder}")
    # Twice as fine as the scans, so that resampling loses nothing.
    card = CARD.updated(
        modality="MR",
        normalisation="percentiles",
        window=None,
        spacing=(None, 0.5, 0.5),
        img_size=(128, 128),
    )
    cases = open_dataset(folder).cases[:10]
    for case, prepared in zip(cases, prepare_cases(cases, {1: 1, 2: 2}, card), strict=True):
        for value in (1, 2):
            voxels = int((case.read_labels().data == value).sum())
            assert int((prepared.labels == value).sum()) == pytest.approx(4 * voxels, rel=0.02)
        assert (prepared.planes.min(), prepared.planes.max()) == (0, 1)


def test_all_that_is_wrong_with_a_case_is_told_at_once(scan: Volume) -> None:
    gappy = volume(np.full(GRID.shape, np.nan, np.float32))
    with pytest.raises(DatasetError, match=r"empty.*NaN"):
        prepare(gappy, volume(np.zeros(GRID.shape, np.uint8)))


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Geometry((3, 50, 40), (3.0, 1.0, 1.0), (0, 0, 0.2)), True),
        (Geometry((3, 50, 40), (3.0, 1.0, 1.0), (0, 0, 0.3)), False),
        (Geometry((3, 50, 40), (3.0, 1.0, 1.009)), False),
    ],
)
def test_grids_of_image_and_labels_are_compared_by_their_corners(
    scan: Volume, organs: Volume, other: Geometry, same: bool
) -> None:
    labels = volume(organs.data, other)
    if same:
        prepare(scan, labels)
    else:
        with pytest.raises(DatasetError, match="mm apart"):
            prepare(scan, labels)
