"""timm's weights land where the same published weights land, or nowhere."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from napari_transunet.checkpoints.layout import POSITIONS
from napari_transunet.checkpoints.pretrained.encoders import LoadReport, Pretrained, set_transformer
from napari_transunet.checkpoints.pretrained.imagenet import load_imagenet
from napari_transunet.checkpoints.pretrained.timm import has_resnet, is_timm, timm_weights
from napari_transunet.checkpoints.reading import StoredTensors, TensorInfo, open_checkpoint
from napari_transunet.errors import CheckpointError, FileProblem, InputError
from napari_transunet.model.encoder import Block
from napari_transunet.model.meta import on_meta_device
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import Variant
from tests.checkpoints.pretrained.test_imagenet import Arrays, vit_arrays

Tensors = dict[str, torch.Tensor]

TINY = Variant("tiny", patch=16, hidden=12, mlp=20, heads=3, blocks=2)
TINY_HYBRID = Variant("tiny hybrid", patch=16, hidden=12, mlp=20, heads=3, blocks=2, hybrid=True)

RESNET = "vit_base_r50_s16_224"
FILES = {
    "ViT-B_16": ("vit_base_patch16_224", None),
    "ViT-B_32": ("vit_base_patch32_224", None),
    "ViT-L_16": ("vit_large_patch16_224", None),
    "R50-ViT-B_16": (RESNET, None),
    "R50-ViT-L_16": ("vit_large_patch16_224", RESNET),
    "R50-ViT-S_16": ("vit_small_patch16_224", RESNET),
    "R50-ViT-Ti_16": ("vit_tiny_patch16_224", RESNET),
}


def load_timm(net: TransUNet, source: Any, *, cnn: Any = None) -> LoadReport:
    return set_transformer(net, weights(source), None if cnn is None else weights(cnn))


def weights(source: Tensors | Path) -> Pretrained:
    return timm_weights(InMemory.of(source) if isinstance(source, dict) else open_checkpoint(source))


class InMemory(StoredTensors):
    """Tensors as a file would hold them."""

    numbers: Tensors

    @classmethod
    def of(cls, tensors: Tensors) -> StoredTensors:
        infos = {
            key: TensorInfo(tuple(value.shape), str(value.dtype).removeprefix("torch."))
            for key, value in tensors.items()
        }
        made = cls(Path("in memory"), "safetensors", infos)
        object.__setattr__(made, "numbers", tensors)
        return made

    def read(self) -> Tensors:
        return self.numbers


def resnet_places() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Our key → timm's name and shape for the ResNet, counted out by hand."""
    ours, theirs = "transformer.embeddings.hybrid_model", "patch_embed.backbone"
    places: dict[str, tuple[str, tuple[int, ...]]] = {
        f"{ours}.root.conv.weight": (f"{theirs}.stem.conv.weight", (64, 3, 7, 7))
    }

    def norm(at: str, there: str, channels: int) -> None:
        places.update({f"{at}.{part}": (f"{there}.{part}", (channels,)) for part in ("weight", "bias")})

    norm(f"{ours}.root.gn", f"{theirs}.stem.norm", 64)
    into = 64
    for stage, (units, out) in enumerate([(3, 256), (4, 512), (9, 1024)]):
        for unit in range(units):
            at = f"{ours}.body.block{stage + 1}.unit{unit + 1}"
            there = f"{theirs}.stages.{stage}.blocks.{unit}"
            middle = out // 4
            shapes = [(middle, into, 1, 1), (middle, middle, 3, 3), (out, middle, 1, 1)]
            for number, shape in enumerate(shapes, start=1):
                places[f"{at}.conv{number}.weight"] = (f"{there}.conv{number}.weight", shape)
                norm(f"{at}.gn{number}", f"{there}.norm{number}", shape[0])
            if unit == 0:
                places[f"{at}.downsample.weight"] = (f"{there}.downsample.conv.weight", (out, into, 1, 1))
                norm(f"{at}.gn_proj", f"{there}.downsample.norm", out)
            into = out
    return places


def vit_shapes(variant: Variant, grid: int = 3) -> dict[str, tuple[int, ...]]:
    """What a plain ViT of these sizes holds in timm, its classifier included."""
    hidden, mlp = variant.hidden, variant.mlp
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, hidden),
        "pos_embed": (1, grid * grid + 1, hidden),
        "patch_embed.proj.weight": (hidden, 3, variant.patch, variant.patch),
        "patch_embed.proj.bias": (hidden,),
        "norm.weight": (hidden,),
        "norm.bias": (hidden,),
        "head.weight": (5, hidden),
        "head.bias": (5,),
    }
    for number in range(variant.blocks):
        block = f"blocks.{number}"
        layers = {
            "norm1": (hidden,),
            "attn.qkv": (3 * hidden, hidden),
            "attn.proj": (hidden, hidden),
            "norm2": (hidden,),
            "mlp.fc1": (mlp, hidden),
            "mlp.fc2": (hidden, mlp),
        }
        for layer, shape in layers.items():
            shapes |= {f"{block}.{layer}.weight": shape, f"{block}.{layer}.bias": shape[:1]}
    return shapes


def drawn(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def vit_tensors(variant: Variant, grid: int = 3) -> Tensors:
    return drawn(vit_shapes(variant, grid))


def hybrid_tensors(variant: Variant) -> Tensors:
    """A hybrid with a patch embedding of its own."""
    plain = vit_shapes(variant) | {"patch_embed.proj.weight": (variant.hidden, 1024, 1, 1)}
    return drawn(plain | dict(resnet_places().values()))


@pytest.fixture(scope="module")
def resnet_tensors() -> Tensors:
    """A hybrid whose tokens are longer than any tested here."""
    return drawn({"patch_embed.proj.weight": (48, 1024, 1, 1)} | dict(resnet_places().values()))


@pytest.fixture
def key_lists(shared_data: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    folder = shared_data / "golden" / "timm_keys"
    if not folder.is_dir():
        pytest.skip(f"timm's key lists are not in {folder}")
    return {
        path.stem: {name: tuple(shape) for name, shape in json.loads(path.read_text()).items()}
        for path in folder.glob("*.json")
    }


def state_of(net: TransUNet) -> Tensors:
    return {key: value.clone() for key, value in net.state_dict().items()}


def unchanged(net: TransUNet, before: Tensors) -> bool:
    return all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


# --- Names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", FILES)
def test_every_name_of_the_real_files_has_its_place(
    variant: str, key_lists: dict[str, dict[str, tuple[int, ...]]]
) -> None:
    with on_meta_device():
        net = TransUNet(variant)
        files = [
            weights({key: torch.empty(shape) for key, shape in key_lists[name].items()})
            for name in FILES[variant]
            if name is not None
        ]
    used: list[set[str]] = [set() for _ in files]
    for key, place in net.state_dict().items():
        if not key.startswith("transformer."):
            continue
        in_cnn = key.startswith("transformer.embeddings.hybrid_model.")
        number = len(files) - 1 if in_cnn else 0
        used[number].add(files[number].origin(key)[0])
        if key == POSITIONS:
            length = files[0].arrays["pos_embed"][1]
            assert length - 1 == place.shape[1]
        elif not (len(files) == 2 and "patch_embeddings" in key):
            assert files[number].shape(key) == tuple(place.shape), key
    assert set(files[0].arrays) - used[0] == {"cls_token"}
    if len(files) == 2:
        # The R50 file's own transformer is left over; of its ResNet nothing is.
        assert {name for name in files[1].arrays if "backbone" in name} == used[1]


def test_the_made_up_files_have_the_real_names(key_lists: dict[str, dict[str, tuple[int, ...]]]) -> None:
    base = Variant("base", patch=16, hidden=768, mlp=3072, heads=12, blocks=12)
    made = {name: shape for name, shape in vit_shapes(base, 14).items() if not name.startswith("head.")}
    assert made == key_lists["vit_base_patch16_224"]
    resnet = {name: shape for name, shape in key_lists[RESNET].items() if "backbone" in name}
    assert dict(resnet_places().values()) == resnet
    assert all(is_timm(names) for names in key_lists.values())
    assert [name for name, names in key_lists.items() if has_resnet(names)] == [RESNET]


@pytest.mark.parametrize("size", [224, 256])
def test_the_compact_hybrid_loads_from_real_layouts(
    size: int, key_lists: dict[str, dict[str, tuple[int, ...]]]
) -> None:
    with on_meta_device():
        net = TransUNet("R50-ViT-Ti_16", img_size=size)
    net = net.to_empty(device="cpu")
    # One number a tensor, which takes no memory.
    cnn = {
        name: torch.tensor(number / 1000).half().expand(shape)
        for number, (name, shape) in enumerate(key_lists[RESNET].items())
    }
    main = drawn(key_lists["vit_tiny_patch16_224"])
    report = load_timm(net, main, cnn=cnn)
    state = net.state_dict()
    assert {key for key in state if key.startswith("transformer.")} == {*report.loaded, *report.kept}
    assert report.kept == tuple(key for key in state if "patch_embeddings" in key)
    assert set(report.from_cnn) == set(resnet_places())
    assert report.resized == (None if size == 224 else ((14, 14), (16, 16)))
    for key, (name, _) in resnet_places().items():
        assert torch.equal(state[key], cnn[name].float()), key
    if size == 224:
        assert torch.equal(state[POSITIONS], main["pos_embed"][:, 1:])


# --- Numbers -----------------------------------------------------------------------------------------------------


def timm_block(x: torch.Tensor, tensors: Tensors, number: int, heads: int) -> torch.Tensor:
    """A block as timm computes it, written down anew: (B, N, hidden) -> (B, N, hidden)."""

    def part(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        at = f"blocks.{number}.{name}"
        return tensors[f"{at}.weight"].double(), tensors[f"{at}.bias"].double()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = part(name)
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = part(name)
        return x @ weight.T + bias

    batch, length, hidden = x.shape
    stacked = linear(norm(x, "norm1"), "attn.qkv").reshape(batch, length, 3, heads, hidden // heads)
    query, key, value = stacked.unbind(2)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * (hidden // heads) ** -0.5
    attended = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value).reshape(batch, length, hidden)
    x = x + linear(attended, "attn.proj")
    return x + linear(functional.gelu(linear(norm(x, "norm2"), "mlp.fc1")), "mlp.fc2")


def test_blocks_compute_what_they_compute_in_timm() -> None:
    net = TransUNet(TINY, img_size=48).eval()
    tensors = vit_tensors(TINY)
    load_timm(net, tensors)
    x = torch.randn(2, 9, TINY.hidden, dtype=torch.float64)
    net.double()
    for number, block in enumerate(net.transformer.encoder.layer):
        assert isinstance(block, Block)
        expected = timm_block(x, tensors, number, TINY.heads)
        torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-9)
    image = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    cut = image.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).reshape(2, 9, -1)
    tokens = cut @ tensors["patch_embed.proj.weight"].flatten(1).T.double() + tensors["patch_embed.proj.bias"]
    torch.testing.assert_close(
        net.transformer.embeddings(image)[0], tokens + tensors["pos_embed"][:, 1:], rtol=1e-9, atol=1e-9
    )


def as_timm(arrays: Arrays, variant: Variant) -> Tensors:
    """A file with Flax names under timm's."""

    def rows(kernel: str) -> np.ndarray:
        return arrays[kernel].reshape(variant.hidden, -1).T

    tensors = {
        "cls_token": arrays["cls"],
        "pos_embed": arrays["Transformer/posembed_input/pos_embedding"],
        "patch_embed.proj.weight": np.einsum("hwio->oihw", arrays["embedding/kernel"]),
        "patch_embed.proj.bias": arrays["embedding/bias"],
        "norm.weight": arrays["Transformer/encoder_norm/scale"],
        "norm.bias": arrays["Transformer/encoder_norm/bias"],
    }
    for number in range(variant.blocks):
        flax, block = f"Transformer/encoderblock_{number}", f"blocks.{number}"
        attention = f"{flax}/MultiHeadDotProductAttention_1"
        projections = [f"{attention}/{name}" for name in ("query", "key", "value")]
        tensors |= {
            f"{block}.norm1.weight": arrays[f"{flax}/LayerNorm_0/scale"],
            f"{block}.norm1.bias": arrays[f"{flax}/LayerNorm_0/bias"],
            f"{block}.norm2.weight": arrays[f"{flax}/LayerNorm_2/scale"],
            f"{block}.norm2.bias": arrays[f"{flax}/LayerNorm_2/bias"],
            f"{block}.attn.qkv.weight": np.concatenate([rows(f"{name}/kernel") for name in projections]),
            f"{block}.attn.qkv.bias": np.concatenate(
                [arrays[f"{name}/bias"].ravel() for name in projections]
            ),
            f"{block}.attn.proj.weight": arrays[f"{attention}/out/kernel"].reshape(-1, variant.hidden).T,
            f"{block}.attn.proj.bias": arrays[f"{attention}/out/bias"],
            f"{block}.mlp.fc1.weight": arrays[f"{flax}/MlpBlock_3/Dense_0/kernel"].T,
            f"{block}.mlp.fc1.bias": arrays[f"{flax}/MlpBlock_3/Dense_0/bias"],
            f"{block}.mlp.fc2.weight": arrays[f"{flax}/MlpBlock_3/Dense_1/kernel"].T,
            f"{block}.mlp.fc2.bias": arrays[f"{flax}/MlpBlock_3/Dense_1/bias"],
        }
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}


def test_both_formats_give_the_same_network() -> None:
    arrays = vit_arrays(TINY)
    first, second = TransUNet(TINY, img_size=64), TransUNet(TINY, img_size=64)
    second.load_state_dict(first.state_dict())
    one = load_imagenet(first, arrays)
    other = load_timm(second, as_timm(arrays, TINY))
    assert one.loaded == other.loaded
    assert one.resized == other.resized == ((3, 3), (4, 4))
    assert unchanged(first, second.state_dict())


def test_a_hybrid_of_one_file() -> None:
    net = TransUNet(TINY_HYBRID, img_size=48)
    before = state_of(net)
    tensors = hybrid_tensors(TINY_HYBRID)
    report = load_timm(net, tensors)
    state = net.state_dict()
    for key, (name, _) in resnet_places().items():
        assert torch.equal(state[key], tensors[name]), key
    assert torch.equal(
        state["transformer.embeddings.patch_embeddings.weight"], tensors["patch_embed.proj.weight"]
    )
    assert report.unused == ("cls_token", "head.bias", "head.weight")
    assert report.kept == report.from_cnn == ()
    for key, value in state.items():
        assert key in report.loaded or torch.equal(value, before[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_file_gives_the_same_as_its_tensors(
    tmp_path: Path, resnet_tensors: Tensors, dtype: torch.dtype
) -> None:
    tensors = {name: value.to(dtype) for name, value in vit_tensors(TINY).items()}
    save_file(tensors, tmp_path / "vit.safetensors")
    save_file(resnet_tensors, tmp_path / "r50.safetensors", metadata={"format": "pt"})
    first, second = TransUNet(TINY_HYBRID, img_size=48), TransUNet(TINY_HYBRID, img_size=48)
    second.load_state_dict(first.state_dict())
    report = load_timm(first, tensors, cnn=resnet_tensors)
    assert load_timm(second, tmp_path / "vit.safetensors", cnn=tmp_path / "r50.safetensors") == report
    assert unchanged(first, second.state_dict())
    assert all(value.dtype in (torch.float32, torch.int64) for value in first.state_dict().values())


# --- What does not fit -------------------------------------------------------------------------------------------


def test_the_file_of_another_variant_is_named_and_changes_nothing(resnet_tensors: Tensors) -> None:
    net = TransUNet(TINY, img_size=48)
    before = state_of(net)
    larger = Variant("larger", patch=16, hidden=16, mlp=20, heads=4, blocks=2)
    coarse = Variant("coarse", patch=32, hidden=12, mlp=20, heads=3, blocks=2)
    shallow = Variant("shallow", patch=16, hidden=12, mlp=20, heads=3, blocks=1)
    deep = Variant("deep", patch=16, hidden=12, mlp=20, heads=3, blocks=3)
    for variant, reason in [
        (larger, r"does not fit tiny: pos_embed is 1×10×16, not 1×N×12, .* and \d+ more\."),
        (coarse, r"patch_embed\.proj\.weight makes 12×3×32×32 where 12×3×16×16 belongs\.$"),
        (shallow, r"blocks\.1\.norm1\.weight is missing"),
        (deep, r"there is no place for blocks\.2\.norm1\.weight"),
    ]:
        with pytest.raises(CheckpointError, match=reason):
            load_timm(net, vit_tensors(variant))
    with pytest.raises(CheckpointError, match="has no ResNet, so no cnn file"):
        load_timm(net, vit_tensors(TINY), cnn=resnet_tensors)
    with pytest.raises(CheckpointError, match=r"has no ResNet, which tiny hybrid needs; .*cnn="):
        load_timm(TransUNet(TINY_HYBRID, img_size=48), vit_tensors(TINY))
    with pytest.raises(CheckpointError, match=r"stem\.conv\.weight is missing"):
        load_timm(TransUNet(TINY_HYBRID, img_size=48), vit_tensors(TINY), cnn=vit_tensors(TINY))
    assert unchanged(net, before)


def test_other_kinds_of_transformer_are_refused() -> None:
    net = TransUNet(TINY, img_size=48)
    before = state_of(net)
    for extra in ("blocks.0.ls1.gamma", "norm_pre.weight", "reg_token", "blocks.1.attn.q_norm.weight"):
        with pytest.raises(CheckpointError, match=f"no place for {extra}"):
            load_timm(net, {**vit_tensors(TINY), extra: torch.ones(12)})
    assert unchanged(net, before)


def test_spoilt_tensors_are_named() -> None:
    net = TransUNet(TINY, img_size=48)
    before = state_of(net)
    tensors = vit_tensors(TINY)
    tensors["norm.bias"][3] = torch.nan
    tensors["blocks.1.attn.qkv.weight"] = torch.ones(35, 12)
    with pytest.raises(CheckpointError) as caught:
        load_timm(net, tensors)
    assert "norm.bias holds numbers that are not finite" in str(caught.value)
    assert str(caught.value).count("blocks.1.attn.qkv.weight is 35×12, from which 12×12 cannot be made") == 1
    tensors = {**vit_tensors(TINY), "head.weight": torch.ones(5, 12, dtype=torch.int8)}
    with pytest.raises(CheckpointError, match=r"floating-point numbers: head\.weight is int8"):
        load_timm(net, tensors)
    with pytest.raises(CheckpointError, match="not finite"):
        load_timm(net, {**vit_tensors(TINY), "norm.bias": torch.full((12,), 1e300, dtype=torch.float64)})
    with pytest.raises(CheckpointError, match="make no square grid"):
        load_timm(net, {**vit_tensors(TINY), "pos_embed": torch.ones(1, 12, 12)})
    with pytest.raises(InputError, match="not a Linear"):
        load_timm(torch.nn.Linear(2, 2), {})  # type: ignore[arg-type]
    assert unchanged(net, before)


def test_hostile_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = TransUNet(TINY, img_size=48)
    before = state_of(net)
    with pytest.raises(FileProblem):
        load_timm(net, tmp_path / "none.safetensors")

    path = tmp_path / "vit.safetensors"
    save_file(vit_tensors(TINY), path)
    content = path.read_bytes()
    for length in range(0, len(content), len(content) // 25):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            load_timm(net, path)

    header = json.dumps({"norm.bias": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}})
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(64))
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_timm(net, path)

    marker = tmp_path / "executed"

    class Opener:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(marker), "w")

    torch.save({**vit_tensors(TINY), "extra": Opener()}, tmp_path / "vit.bin")
    with pytest.raises(CheckpointError, match="was blocked"):
        load_timm(net, tmp_path / "vit.bin")
    assert not marker.exists()

    path.write_bytes(content)
    monkeypatch.setattr("napari_transunet.checkpoints.pretrained.timm.available_memory", lambda: 1000)
    with pytest.raises(CheckpointError, match="of memory, more than is free"):
        load_timm(net, path)
    assert unchanged(net, before)


def test_a_plain_state_dict_is_read_too(tmp_path: Path) -> None:
    torch.save(vit_tensors(TINY), tmp_path / "vit.bin")
    report = load_timm(TransUNet(TINY, img_size=48), tmp_path / "vit.bin")
    assert report.unused == ("cls_token", "head.bias", "head.weight")
