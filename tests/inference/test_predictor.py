"""The predictor: what it prepares, in which order it answers, and what it does when something is wrong."""

import itertools
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import InputError
from napari_transunet.inference.batching import OutOfMemoryError
from napari_transunet.inference.prediction import PredictionCancelled, SlicePrediction
from napari_transunet.inference.predictor import Predictor
from napari_transunet.model.inference import InferenceTransUNet
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import VARIANTS
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume
from tests.inference.conftest import PLAIN, network
from tests.networks import slim_parts

Array = npt.NDArray[Any]
SHAPE = (7, 40, 52)


def ct(shape: tuple[int, int, int] = SHAPE, seed: int = 4) -> Array:
    """Smooth blobs over most of the HU scale, int16."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    blobs = ndimage.gaussian_filter(noise, (0.7, 3, 3))
    return (blobs / blobs.std() * 150 + 60).astype(np.int16)


def volume(data: Array, geometry: Geometry | None = None, modality: str | None = "CT") -> Volume:
    own = Geometry((data.shape[0], data.shape[1], data.shape[2]), (2.5, 0.8, 0.7))
    return Volume(data, geometry or own, modality, Source(None, "array", "test"))


def on_cpu(net: TransUNet, **options: Any) -> Predictor:
    return Predictor(net, device="cpu", **{"precision": "float32", "backend": "torch", **options})


class Calls:
    """Stands before the network and keeps the batch sizes it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int | None = None, text: str = "") -> None:
        self.batches: list[int] = []
        forward = InferenceTransUNet.forward

        def counted(network: InferenceTransUNet, x: torch.Tensor) -> torch.Tensor:
            self.batches.append(len(x))
            if room is not None and len(x) > room:
                raise RuntimeError(text)
            return forward(network, x)

        monkeypatch.setattr(InferenceTransUNet, "forward", counted)


# ---------------------------------------------------------------- the answer


def test_labels_are_those_of_the_network_itself(hybrid: TransUNet) -> None:
    data = ct((3, 64, 64))
    scaled = (torch.from_numpy(data).float().clamp(-125, 275) + 125) / 400
    with torch.inference_mode():
        expected = hybrid(scaled[:, None]).argmax(dim=1).numpy()
    labels = on_cpu(hybrid).predict(volume(data))
    assert labels.dtype == np.uint8
    assert len(np.unique(labels)) >= 3
    assert (labels == expected).mean() > 0.9999


def test_an_array_is_a_volume(plain: TransUNet) -> None:
    data = ct()
    np.testing.assert_array_equal(on_cpu(plain).predict(data), on_cpu(plain).predict(volume(data)))


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.uint16, np.int32, np.int64, np.float16, np.float64, ">i2"]
)
def test_every_real_type_is_read(plain: TransUNet, dtype: npt.DTypeLike) -> None:
    data = np.clip(ct((2, 40, 40)), 0, 120)
    expected = on_cpu(plain).predict(data)
    np.testing.assert_array_equal(on_cpu(plain).predict(data.astype(dtype)), expected)


def test_a_batch_answers_as_single_slices_do(hybrid: TransUNet) -> None:
    data = volume(ct((5, 50, 60)))
    single = on_cpu(hybrid, batch_size=1).predict(data)
    assert (on_cpu(hybrid, batch_size=4).predict(data) == single).mean() > 0.9999


def test_bfloat16_is_close(hybrid: TransUNet) -> None:
    data = volume(ct((2, 64, 64)))
    half = on_cpu(hybrid, precision="bfloat16")
    assert half.precision == torch.bfloat16
    assert (half.predict(data) == on_cpu(hybrid).predict(data)).mean() > 0.9


def test_many_classes_need_sixteen_bits() -> None:
    net = network(PLAIN, num_classes=300, img_size=32)
    with torch.no_grad():
        net.segmentation_head[0].bias[280] = 1000
    predictor = on_cpu(net)
    labels = predictor.predict(ct((2, 40, 40)))
    assert labels.dtype == predictor.labels_dtype == np.uint16
    assert (labels == 280).all()
    assert on_cpu(network(PLAIN, num_classes=255, img_size=32)).labels_dtype == np.uint8


def test_logits_are_brought_back_before_the_argmax(plain: TransUNet) -> None:
    """Edges of a slice larger than the network are straight between the network's pixels, not stairs."""
    data = ct((1, 200, 200))
    labels = on_cpu(plain).predict(data)[0]
    stairs = on_cpu(plain, pipeline="paper").predict(data)[0]
    corners = [
        np.abs(np.diff(np.diff(plane.astype(int) > 0, axis=0), axis=1)).sum() for plane in (labels, stairs)
    ]
    assert corners[0] > 1.5 * corners[1]  # a slanted edge turns at every pixel, a stair at every step
    assert (labels == stairs).mean() > 0.8


def test_rectangular_networks(plain: TransUNet) -> None:
    wide = network(PLAIN, img_size=(48, 80))
    assert on_cpu(wide).predict(ct()).shape == SHAPE


# ---------------------------------------------------------------- the card


CARDS = [
    {"orientation": "LPS"},
    {"orientation": "RAS", "context": 3, "resize": "pad", "spacing": (None, 0.25, 0.25)},
    {"orientation": "SPL", "modality": "MR", "normalisation": "percentiles", "resize": "pad"},
]
ORIENTATIONS = [
    (axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize(
    "fields",
    [CARDS[0], *(pytest.param(fields, marks=pytest.mark.long) for fields in CARDS[1:])],
    ids=lambda fields: fields["orientation"],
)
def test_the_answer_turns_with_the_volume(small: TransUNet, fields: dict[str, Any]) -> None:
    """However the same patient is stored, every voxel gets the same label."""
    predictor = on_cpu(small, card=default_card(small, **fields), batch_size=1)
    shape = (3, 8, 12) if "spacing" in fields else (3, 4, 6)  # large enough for several labels
    original = volume(ct(shape), modality=fields.get("modality", "CT"))
    expected = predictor.predict(original)
    assert len(np.unique(expected)) > 1
    for axes, flips in ORIENTATIONS:
        flipped = tuple(axis for axis in range(3) if flips[axis])
        data = np.flip(original.data.transpose(axes), flipped)
        turned = volume(data, original.geometry.reoriented(axes, flips), original.modality)
        np.testing.assert_array_equal(predictor.predict(turned), np.flip(expected.transpose(axes), flipped))


def test_slices_are_counted_along_the_volumes_own_axis(plain: TransUNet) -> None:
    """A sagittally stored volume: the card's axial slices lie along its second axis, from the head down."""
    predictor = on_cpu(plain, card=default_card(plain, orientation="LPS"))
    axial = volume(ct((6, 20, 24)))
    sagittal = volume(
        np.flip(axial.data.transpose(2, 0, 1), 1),
        axial.geometry.reoriented((2, 0, 1), (False, True, False)),
    )
    assert predictor.slice_axis(axial) == 0
    assert predictor.slice_axis(sagittal) == 1
    expected = predictor.predict(sagittal)
    for index, plane in predictor.iter_slices(sagittal, first=4):
        np.testing.assert_array_equal(plane, expected[:, index])


def test_a_bare_array_lies_as_the_card_wants_it(plain: TransUNet) -> None:
    turned = on_cpu(plain, card=default_card(plain, orientation="RIA"))
    np.testing.assert_array_equal(turned.predict(ct()), on_cpu(plain).predict(ct()))
    assert turned.slice_axis(ct()) == 0


def test_neighbouring_slices_are_the_channels(plain: TransUNet) -> None:
    data = ct((4, 64, 64))
    labels = on_cpu(plain, card=default_card(plain, context=3)).predict(data)
    scaled = (torch.from_numpy(data).float().clamp(-125, 275) + 125) / 400
    for z in range(4):
        around = scaled[[max(z - 1, 0), z, min(z + 1, 3)]][None]
        with torch.inference_mode():
            expected = plain(around)[0].argmax(dim=0).numpy()
        assert (labels[z] == expected).mean() > 0.9999


def test_the_window_of_the_card_is_used(plain: TransUNet) -> None:
    data = ct()
    wide = on_cpu(plain, card=default_card(plain, window=(-1250, 2750))).predict(data.astype(np.int32) * 10)
    np.testing.assert_array_equal(wide, on_cpu(plain).predict(data))


def test_missing_numbers_are_background(plain: TransUNet) -> None:
    data = ct().astype(np.float32)
    data[:, :5] = -1000
    expected = on_cpu(plain).predict(data)
    data[:, :5] = np.nan
    np.testing.assert_array_equal(on_cpu(plain).predict(data), expected)


def test_a_single_missing_number_changes_no_label_elsewhere(plain: TransUNet) -> None:
    data = ct().astype(np.float32)
    expected = on_cpu(plain).predict(data)
    broken = data.copy()
    broken[1, 20, 20] = np.nan
    broken[2, 21, 22] = np.inf
    filled = data.copy()
    for place in ((1, 20, 20), (2, 21, 22)):
        z, y, x = place
        around = data[z, y - 1 : y + 2, x - 1 : x + 2]
        filled[place] = (around.sum() - data[place]) / 8
    np.testing.assert_array_equal(on_cpu(plain).predict(broken), on_cpu(plain).predict(filled))
    assert (on_cpu(plain).predict(broken) != expected).mean() < 0.01
    assert np.isnan(broken[1, 20, 20])  # the volume itself stays


def test_a_checkpoint_brings_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**VARIANTS, PLAIN.name: PLAIN}
    for module in ("model.variants", "checkpoints.layout"):
        monkeypatch.setattr(f"napari_transunet.{module}.VARIANTS", known)
    net = network(PLAIN, img_size=32)
    card = default_card(net, labels={1: "liver"}, window=(-1000, 400), orientation="RAS")
    with slim_parts():
        checkpoint = load_checkpoint(save_checkpoint(tmp_path / "own.safetensors", net, card))
    predictor = Predictor(checkpoint, device="cpu", precision="float32")
    assert predictor.checkpoint is checkpoint
    assert predictor.card == checkpoint.card
    assert predictor.card.window == (-1000, 400)
    turned = np.flip(ct(), (1, 2))  # a LPS volume as RAS
    expected = on_cpu(net, card=default_card(net, window=(-1000, 400))).predict(turned)
    labels = predictor.predict(volume(ct()))
    np.testing.assert_array_equal(labels, np.flip(expected, (1, 2)))
    assert (labels != expected).mean() > 0.1


def test_a_checkpoint_may_be_used_at_another_size(tmp_path: Path) -> None:
    net = network("testing", img_size=32)
    path = save_checkpoint(tmp_path / "own.safetensors", net, default_card(net))
    with slim_parts():
        larger = Predictor(load_checkpoint(path, img_size=(48, 64)), device="cpu", backend="torch")
    assert larger.card.img_size == (48, 64)
    assert larger.predict(ct()).shape == SHAPE


# ---------------------------------------------------------------- the order


def test_the_slice_in_view_comes_first_and_alone(plain: TransUNet) -> None:
    predictor = on_cpu(plain, batch_size=3)
    batches = list(predictor.iter_batches(volume(ct()), first=4))
    assert [[item.index for item in batch] for batch in batches] == [[4], [5, 3, 6], [2, 1, 0]]
    assert all(isinstance(item, SlicePrediction) for batch in batches for item in batch)


def test_slices_agree_with_the_whole(plain: TransUNet) -> None:
    predictor = on_cpu(plain)
    data = volume(ct())
    whole = predictor.predict(data)
    seen = dict(predictor.iter_slices(data, first=2))
    assert list(seen) == [2, 3, 1, 4, 0, 5, 6]
    for index, plane in seen.items():
        assert plane.dtype == whole.dtype
        np.testing.assert_array_equal(plane, whole[index])


@pytest.mark.parametrize("slices", [[1.5], np.array([True, False]), "16"])
def test_slices_are_not_guessed_from_what_is_no_number(plain: TransUNet, slices: Any) -> None:
    with pytest.raises(InputError, match="whole number"):
        on_cpu(plain).iter_slices(ct(), slices=slices)


def test_only_some_slices(plain: TransUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = on_cpu(plain, batch_size=2)
    calls = Calls(monkeypatch)
    assert [index for index, _ in predictor.iter_slices(ct(), slices=[6, 1, 1, 3])] == [6, 1, 3]
    assert [index for index, _ in predictor.iter_slices(ct(), slices=[6, 1, 3], first=2)] == [3, 1, 6]
    assert list(predictor.iter_slices(ct(), slices=[])) == []
    assert calls.batches == [2, 1, 1, 2]


@pytest.mark.parametrize(
    "options", [{"first": 7}, {"first": -1}, {"slices": [2, 7]}, {"slices": [1], "first": 9}]
)
def test_slices_that_are_not_there_are_refused_at_once(plain: TransUNet, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="this volume's slices are 0 to 6"):
        on_cpu(plain).iter_slices(ct(), **options)


def test_progress_counts_slices(plain: TransUNet) -> None:
    seen: list[tuple[int, int]] = []
    on_cpu(plain, batch_size=3).predict(ct(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_cancelling_stops_before_the_next_batch(plain: TransUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = on_cpu(plain, batch_size=2)
    calls = Calls(monkeypatch)
    done: list[int] = []
    slices = predictor.iter_slices(ct(), first=3, cancelled=lambda: len(done) >= 3)
    done.extend(index for index, _ in slices)
    assert done == [3, 4, 2]
    assert calls.batches == [1, 2]
    answers = iter([False, False, True])
    with pytest.raises(PredictionCancelled, match="after 4 of 7 slices"):
        predictor.predict(ct(), cancelled=lambda: next(answers))


# ---------------------------------------------------------------- what is saved


def test_air_is_computed_once(plain: TransUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ct((9, 40, 52))
    data[:3] = -1000  # air
    data[1] = np.random.default_rng(5).integers(
        -1024, -200, data[1].shape
    )  # noisy air: the same once clipped
    data[7] = 900  # metal everywhere
    predictor = on_cpu(plain, batch_size=2)
    expected = {index: plane for k in range(9) for index, plane in predictor.iter_slices(data, slices=[k])}
    calls = Calls(monkeypatch)
    labels = predictor.predict(data)
    assert sum(calls.batches) == 9 - 2
    for index, plane in expected.items():
        assert (labels[index] == plane).mean() > 0.9999
    np.testing.assert_array_equal(labels[0], labels[1])


def test_planes_of_air_are_separate(plain: TransUNet) -> None:
    planes = dict(on_cpu(plain).iter_slices(np.full((4, 40, 40), -1000)))
    before = planes[1].copy()
    planes[0][:] = 77
    np.testing.assert_array_equal(planes[1], before)


def test_three_channels_are_empty_only_together(plain: TransUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ct((8, 40, 52))
    data[:5] = -1000
    predictor = on_cpu(plain, card=default_card(plain, context=3), batch_size=1)
    calls = Calls(monkeypatch)
    predictor.predict(data)
    assert (
        len(calls.batches) == 8 - 3
    )  # slices 1, 2, 3 equal slice 0; slice 4 has a neighbour that is not air


def test_memory_does_not_grow_with_the_volume(small: TransUNet) -> None:
    """Only the slices of a batch are ever converted."""
    data = np.broadcast_to(ct((1, 100, 100)), (1000, 100, 100))
    predictor = on_cpu(small, batch_size=2)
    tracemalloc.start()
    try:
        batches = predictor.iter_batches(volume(data), first=500)
        assert [len(next(batches)) for _ in range(3)] == [1, 2, 2]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20  # the whole in float32 would be 40 MB


def test_preparing_is_quick(hybrid: TransUNet) -> None:
    seconds = []
    for _ in range(3):
        start = time.thread_time()
        on_cpu(hybrid)
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 2  # about 0.15 on two idle cores


# ---------------------------------------------------------------- memory runs out

OUT_OF_MEMORY = [
    "CUDA out of memory. Tried to allocate 20.00 MiB.",
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to…",
    "MPS backend out of memory (MPS allocated: 9.00 GB)",
]


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_the_batch_is_halved_until_it_fits(
    plain: TransUNet, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    expected = on_cpu(plain, batch_size=1).predict(ct((9, 40, 52)))
    predictor = on_cpu(plain, batch_size=8)
    calls = Calls(monkeypatch, room=2, text=text)
    labels = predictor.predict(ct((9, 40, 52)))
    assert calls.batches == [8, 4, 2, 2, 2, 2, 1]
    assert (labels == expected).mean() > 0.9999


def test_a_slice_that_does_not_fit_is_said(plain: TransUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = on_cpu(plain, batch_size=4)
    Calls(monkeypatch, room=0, text=OUT_OF_MEMORY[0])
    with pytest.raises(OutOfMemoryError, match="does not hold a single slice at 64×64"):
        predictor.predict(ct())


def test_other_errors_are_not_taken_for_it(plain: TransUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = on_cpu(plain)
    Calls(monkeypatch, room=0, text="mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        predictor.predict(ct())


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((40, 52)), r"single slice \(40, 52\).*array\[None\]"),
        (np.zeros((7, 40, 52, 3)), "looks like colour"),
        (np.zeros((2, 7, 40, 52)), r"three axes \(z, y, x\).*one time point"),
        (np.zeros((7, 40, 52), np.complex64), "real numbers, not values of type complex64"),
        (np.zeros((0, 40, 52)), "at least one voxel"),
        (np.array(["a"]), "three axes"),
    ],
)
def test_arrays_that_are_no_volumes(plain: TransUNet, array: Array, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        on_cpu(plain).predict(array)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pipeline": "magic"}, "pipeline 'magic'; choose one of card, paper"),
        ({"batch_size": 0}, "from 1 to 4096, not 0"),
        ({"batch_size": 10**12}, "from 1 to 4096"),
        ({"device": "tpu"}, "device 'tpu'; choose one of auto, cpu, cuda"),
        ({"device": "cpu", "precision": "int4"}, "precision 'int4'; choose one of auto, float32"),
    ],
)
def test_options_that_do_not_exist(plain: TransUNet, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Predictor(plain, **options)


def test_a_path_is_no_model() -> None:
    with pytest.raises(InputError, match="what load_checkpoint returns, or a TransUNet, not str"):
        Predictor("weights.pth")  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [{"num_classes": 9}, {"img_size": (64, 80)}, {"variant": "ViT-B_16"}])
def test_a_card_of_another_network_is_refused(plain: TransUNet, field: dict[str, Any]) -> None:
    card = default_card(plain).updated(**field)
    with pytest.raises(InputError, match=f"describes another network: {next(iter(field))} "):
        on_cpu(plain, card=card)


def test_an_overflow_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(PLAIN)
    with torch.no_grad():
        net.segmentation_head[0].weight.fill_(3e38)
    with pytest.raises(InputError, match="overflows in float32"):
        on_cpu(net).predict(ct())


# ---------------------------------------------------------------- the published procedure


def test_the_papers_pipeline_is_slice_by_slice_scipy(hybrid: TransUNet) -> None:
    """Against the procedure written out: zoom with splines, network, argmax, nearest zoom back."""
    data = ct((2, 50, 90))
    expected = np.zeros(data.shape, np.uint8)
    scaled = (np.clip(data.astype(np.float32), -125, 275) + 125) / 400
    for z, plane in enumerate(scaled):
        zoomed = ndimage.zoom(plane, (64 / 50, 64 / 90), order=3)
        with torch.inference_mode():
            small = hybrid(torch.from_numpy(zoomed)[None, None]).argmax(dim=1)[0].numpy()
        expected[z] = ndimage.zoom(small, (50 / 64, 90 / 64), order=0)
    predictor = Predictor(hybrid, device="cpu", pipeline="paper")
    assert predictor.precision == torch.float32
    assert (predictor.predict(data) == expected).mean() > 0.999


def test_the_papers_pipeline_takes_slices_as_stored(plain: TransUNet) -> None:
    card = default_card(plain, orientation="SLP", modality="MR", context=3)
    plainly = Predictor(plain, device="cpu", pipeline="paper").predict(ct())
    from_card: Callable[[Volume], Array] = Predictor(plain, device="cpu", pipeline="paper", card=card).predict
    np.testing.assert_array_equal(from_card(volume(ct())), plainly)
