"""On a real GPU: the same labels as on the CPU, all of the way round. Skipped where there is none."""

import numpy as np
import pytest
import torch

from napari_transunet.inference.prediction import PredictionCancelled
from napari_transunet.inference.predictor import Predictor
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.cases import Case
from napari_transunet.training.fitting import fit
from napari_transunet.training.recipes import DEFAULT
from tests.inference.conftest import network
from tests.inference.test_predictor import ct, volume

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


def dice(one: np.ndarray, other: np.ndarray) -> float:
    values = [value for value in np.union1d(np.unique(one), np.unique(other)) if value]
    return min(
        2 * float(((one == v) & (other == v)).sum()) / ((one == v).sum() + (other == v).sum()) for v in values
    )


@pytest.fixture(scope="module")
def hybrid() -> TransUNet:
    return network("R50-ViT-Ti_16", img_size=96)


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.9999), ("bfloat16", 0.90), ("float16", 0.98)])
def test_the_labels_are_those_of_the_cpu(hybrid: TransUNet, precision: str, least: float) -> None:
    scan = volume(ct((12, 150, 170)))
    on_cpu = Predictor(hybrid, device="cpu", precision="float32", backend="torch").predict(scan)
    on_gpu = Predictor(hybrid, device="cuda", precision=precision).predict(scan)
    assert len(np.unique(on_cpu)) > 2
    assert (on_cpu == on_gpu).mean() > least


def test_every_slice_comes_once_and_first_what_was_asked_for(hybrid: TransUNet) -> None:
    scan = volume(ct((40, 64, 64)))
    predictor = Predictor(hybrid, device="cuda")
    whole = predictor.predict(scan)
    slices = list(predictor.iter_slices(scan, first=17))
    assert slices[0][0] == 17
    assert sorted(z for z, *_ in slices) == list(range(40))
    stacked = np.stack(
        [plane for _, plane, *_ in sorted(((z, plane) for z, plane, *_ in slices), key=lambda s: s[0])]
    )
    assert (stacked == whole).mean() > 0.999


def test_it_can_be_cancelled(hybrid: TransUNet) -> None:
    asked = iter(range(10_000))
    predictor = Predictor(hybrid, device="cuda", batch_size=4)
    with pytest.raises(PredictionCancelled):
        predictor.predict(volume(ct((60, 64, 64))), cancelled=lambda: next(asked) > 2)


def test_a_batch_too_large_for_the_memory_is_halved(hybrid: TransUNet) -> None:
    scan = volume(ct((64, 96, 96)))
    expected = Predictor(hybrid, device="cuda", precision="float32", batch_size=2).predict(scan)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (160 << 20)) / total)
    try:
        found = Predictor(hybrid, device="cuda", precision="float32", batch_size=64).predict(scan)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (found == expected).mean() > 0.999


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, ">i2"])
def test_voxels_of_any_type_give_the_labels_of_the_cpu(hybrid: TransUNet, dtype: str) -> None:
    scan = (ct((9, 80, 90)).clip(-160, 240) + 160).astype(np.dtype(dtype).newbyteorder("=")) % 200
    stored = scan.astype(dtype)[:, ::-1]
    on_cpu = Predictor(hybrid, device="cpu", precision="float32", backend="torch").predict(stored)
    on_gpu = Predictor(hybrid, device="cuda", precision="float32", batch_size=4).predict(stored)
    assert (on_cpu == on_gpu).mean() > 0.9999


def test_training_on_it_lowers_the_loss() -> None:
    torch.manual_seed(0)
    planes = torch.rand(12, 64, 64)
    planes[:, 20:40, 10:30] += 1
    case = Case("one", "one", (planes / 2).half(), (planes > 1).to(torch.uint8))
    net = TransUNet("R50-ViT-Ti_16", num_classes=2, img_size=64)
    losses: list[float] = []
    fit(
        net,
        [case],
        DEFAULT.with_changes(steps=60, batch=4),
        device="cuda",
        on_progress=lambda progress: losses.append(progress.loss),
    )
    assert next(net.parameters()).device.type == "cpu"
    assert net.decoder.conv_more[1].num_batches_tracked == 60  # what was recorded for the GPU does not count
    assert "forward" not in vars(net)
    assert losses[-1] < 0.5 * losses[0]
