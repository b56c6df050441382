"""ImageNet weights land where the published loader puts them, or nowhere."""

import json
import re
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.layout import POSITIONS
from napari_transunet.checkpoints.pretrained.imagenet import load_imagenet
from napari_transunet.errors import CheckpointError, FileProblem, InputError
from napari_transunet.model.meta import on_meta_device
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import Variant

Arrays = dict[str, np.ndarray[Any, Any]]

TINY = Variant("tiny", patch=16, hidden=8, mlp=12, heads=2, blocks=2)
TINY_HYBRID = Variant("tiny hybrid", patch=16, hidden=8, mlp=12, heads=2, blocks=2, hybrid=True)


def vit_arrays(variant: Variant, grid: int = 3) -> Arrays:
    """The file of a plain ViT of these sizes, with Flax names."""
    draw = np.random.default_rng(1)
    hidden, heads, mlp = variant.hidden, variant.heads, variant.mlp
    head = hidden // heads
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, hidden),
        "head/kernel": (hidden, 21843),
        "embedding/kernel": (variant.patch, variant.patch, 3, hidden),
        "embedding/bias": (hidden,),
        "Transformer/posembed_input/pos_embedding": (1, grid * grid + 1, hidden),
        "Transformer/encoder_norm/scale": (hidden,),
        "Transformer/encoder_norm/bias": (hidden,),
    }
    for number in range(variant.blocks):
        block = f"Transformer/encoderblock_{number}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{norm}/scale": (hidden,), f"{block}/{norm}/bias": (hidden,)}
        shapes |= {
            f"{block}/MlpBlock_3/Dense_0/kernel": (hidden, mlp),
            f"{block}/MlpBlock_3/Dense_0/bias": (mlp,),
        }
        shapes |= {
            f"{block}/MlpBlock_3/Dense_1/kernel": (mlp, hidden),
            f"{block}/MlpBlock_3/Dense_1/bias": (hidden,),
        }
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for projection in ("query", "key", "value"):
            shapes |= {
                f"{attention}/{projection}/kernel": (hidden, heads, head),
                f"{attention}/{projection}/bias": (heads, head),
            }
        shapes |= {f"{attention}/out/kernel": (heads, head, hidden), f"{attention}/out/bias": (hidden,)}
    return {name: draw.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def hybrid_arrays(golden: ModuleType) -> Arrays:
    arrays: Arrays = golden.imagenet_npz("R50-ViT-B_16")
    return arrays


@pytest.fixture(scope="session")
def plain_arrays(golden: ModuleType) -> Arrays:
    arrays: Arrays = golden.imagenet_npz("ViT-B_16")
    return arrays


@pytest.mark.parametrize(
    ("variant", "arrays", "size"),
    [
        pytest.param("R50-ViT-B_16", "hybrid_arrays", 512, marks=pytest.mark.long),
        pytest.param("ViT-B_16", "plain_arrays", 224, marks=pytest.mark.slow),
        pytest.param("R50-ViT-B_16", "hybrid_arrays", 224, marks=pytest.mark.slow),
        pytest.param("ViT-B_16", "plain_arrays", 512, marks=pytest.mark.slow),
    ],
)
def test_published_loads(
    request: pytest.FixtureRequest,
    golden: ModuleType,
    shared_data: Path,
    variant: str,
    arrays: str,
    size: int,
) -> None:
    # Only the transformer is loaded, so the rest of the network need not be drawn at random.
    with on_meta_device():
        net = TransUNet(variant, img_size=size)
    net = net.to_empty(device="cpu")
    report = load_imagenet(net, request.getfixturevalue(arrays))
    folder = shared_data / "golden" / "imagenet_npz"
    expected = json.loads((folder / f"{variant}_{size}.loaded_checksums.json").read_text())
    state = net.state_dict()
    assert set(report.loaded) == set(expected)
    assert report.kept == ()
    assert report.unused == ("cls",)
    assert report.resized == (None if size == 224 else ((14, 14), (32, 32)))
    # Every layer has a name of its own in the first block, and all blocks are alike.
    sample = [key for key in expected if not re.search(r"encoder\.layer\.([1-9]|10)\.", key)]
    assert POSITIONS in sample
    for key in sample:
        numbers = expected[key]
        found = golden.checksum(state[key].numpy())
        np.testing.assert_allclose(found, numbers, rtol=1e-6, atol=1e-6 * numbers[1], err_msg=key)
    with np.load(folder / f"{variant}_{size}.posemb.npz") as reference:
        np.testing.assert_allclose(state[POSITIONS][0, ::11, ::32].numpy(), reference["posemb"], atol=1e-6)


def test_a_file_gives_the_same_as_its_arrays(tmp_path: Path) -> None:
    arrays = vit_arrays(TINY)
    np.savez(tmp_path / "tiny.npz", **arrays)  # type: ignore[arg-type]
    first, second = TransUNet(TINY, img_size=64), TransUNet(TINY, img_size=64)
    second.load_state_dict(first.state_dict())
    report = load_imagenet(first, arrays)
    assert load_imagenet(second, tmp_path / "tiny.npz") == report
    assert report.unused == ("cls", "head/kernel")
    assert report.resized == ((3, 3), (4, 4))
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
    patches = first.transformer.embeddings.patch_embeddings.weight
    np.testing.assert_array_equal(patches.detach().numpy(), arrays["embedding/kernel"].transpose(3, 2, 0, 1))


def test_decoder_and_head_stay_as_they_are() -> None:
    net = TransUNet(TINY, img_size=48)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    report = load_imagenet(net, vit_arrays(TINY))
    for key, value in net.state_dict().items():
        if key.startswith("transformer."):
            assert key in report.loaded
        else:
            assert torch.equal(value, before[key])


def test_a_hybrid_from_two_files(hybrid_arrays: Arrays) -> None:
    net = TransUNet(TINY_HYBRID, img_size=48)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    arrays = vit_arrays(TINY)
    with pytest.raises(CheckpointError, match=r"has no ResNet.*cnn="):
        load_imagenet(net, arrays)
    report = load_imagenet(net, arrays, cnn=hybrid_arrays)
    state = net.state_dict()
    root = "transformer.embeddings.hybrid_model.root.conv.weight"
    np.testing.assert_array_equal(
        state[root].numpy(), hybrid_arrays["conv_root/kernel"].transpose(3, 2, 0, 1)
    )
    np.testing.assert_array_equal(
        state["transformer.encoder.layer.1.ffn.fc1.weight"].numpy(),
        arrays["Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel"].T,
    )
    patches = [f"transformer.embeddings.patch_embeddings.{part}" for part in ("weight", "bias")]
    assert sorted(report.kept) == sorted(patches)
    for key in patches:
        assert torch.equal(state[key], before[key])


@pytest.mark.slow
def test_r50_vit_l_from_two_files(hybrid_arrays: Arrays) -> None:
    large = Variant("ViT-L_16", patch=16, hidden=1024, mlp=4096, heads=16, blocks=24)
    with on_meta_device():
        net = TransUNet("R50-ViT-L_16")
    net = net.to_empty(device="cpu")
    report = load_imagenet(net, vit_arrays(large, grid=14), cnn=hybrid_arrays)
    transformer = [key for key in net.state_dict() if key.startswith("transformer.")]
    assert len(report.loaded) == len(transformer) - 2


def test_the_file_of_another_variant_is_named_and_changes_nothing(hybrid_arrays: Arrays) -> None:
    net = TransUNet(TINY, img_size=48)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"The mapping does not fit tiny: .*embedding/kernel makes"
    ) as caught:
        load_imagenet(net, hybrid_arrays)
    assert "more." in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_missing_and_spoilt_arrays_are_named() -> None:
    net = TransUNet(TINY, img_size=48)
    arrays = vit_arrays(TINY)
    arrays["Transformer/encoder_norm/bias"][3] = np.nan
    del arrays["Transformer/encoderblock_1/LayerNorm_2/scale"]
    with pytest.raises(CheckpointError) as caught:
        load_imagenet(net, arrays)
    assert "Transformer/encoderblock_1/LayerNorm_2/scale is missing" in str(caught.value)
    assert "Transformer/encoder_norm/bias holds numbers that are not finite" in str(caught.value)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    net = TransUNet(TINY, img_size=48)
    with pytest.raises(FileProblem):
        load_imagenet(net, tmp_path / "none.npz")
    text = tmp_path / "text.npz"
    text.write_text("no arrays")
    with pytest.raises(CheckpointError, match=r"no \.npz file"):
        load_imagenet(net, text)
    trained = tmp_path / "trained.pth"
    torch.save(net.state_dict(), trained)
    with pytest.raises(CheckpointError, match="holds no arrays"):
        load_imagenet(net, trained)
    with pytest.raises(InputError, match="not a Linear"):
        load_imagenet(torch.nn.Linear(2, 2), {})  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="has no ResNet, so no cnn file"):
        load_imagenet(net, vit_arrays(TINY), cnn={})


def test_pickled_arrays_are_never_opened(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Opener:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return open, (str(marker), "w")

    path = tmp_path / "hostile.npz"
    np.savez(path, **{**vit_arrays(TINY), "cls": np.array([Opener()], dtype=object)})  # type: ignore[arg-type]
    marker.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="cls holds Python objects"):
        load_imagenet(TransUNet(TINY, img_size=48), path)
    assert not marker.exists()


def test_a_truncated_file_and_a_bomb(tmp_path: Path) -> None:
    net = TransUNet(TINY, img_size=48)
    path = tmp_path / "w.npz"
    np.savez(path, **vit_arrays(TINY))  # type: ignore[arg-type]
    content = path.read_bytes()
    for length in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            load_imagenet(net, path)
    np.savez_compressed(path, zeros=np.zeros(4 << 20))
    with pytest.raises(CheckpointError, match="so it was not opened"):
        load_imagenet(net, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "a.npy",
            b"\x93NUMPY\x01\x00F\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n",
        )
    with pytest.raises(CheckpointError, match=r"not as large as it says|is damaged"):
        load_imagenet(net, path)
