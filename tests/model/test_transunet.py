import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_transunet.errors import InputError
from napari_transunet.model.meta import on_meta_device
from napari_transunet.model.transunet import TransUNet, checked_size
from napari_transunet.model.variants import VARIANTS, Variant
from tests.references import OWN_REFERENCE, reference_image, reference_network, relative_error

HYBRID = "R50-ViT-B_16_224_skip3_c9"
TOLERANCE = 4e-5  # float32 against float64; rounding alone makes up to 3e-5, in the tokens


@pytest.fixture(scope="module")
def published_hybrid() -> TransUNet:
    """R50-ViT-B_16 at 224 with nine classes and the reference weights."""
    return reference_network(HYBRID, OWN_REFERENCE / f"{HYBRID}.json")


@pytest.fixture(scope="module")
def small() -> TransUNet:
    torch.manual_seed(0)
    return TransUNet("R50-ViT-Ti_16", 3, (32, 64)).eval()


@torch.no_grad()
def test_published_hybrid_gives_the_reference_logits(published_hybrid: TransUNet) -> None:
    expected = np.load(OWN_REFERENCE / f"{HYBRID}.npz")
    logits = published_hybrid(reference_image(224))
    assert relative_error(logits[0, :, ::4, ::4], expected["logits"]) < TOLERANCE
    assert (logits[0].argmax(0).numpy() == expected["labels"]).mean() > 0.9999


@torch.no_grad()
def test_published_hybrid_gives_the_reference_features(published_hybrid: TransUNet) -> None:
    expected = np.load(OWN_REFERENCE / f"{HYBRID}.npz")
    tokens, skips = published_hybrid.transformer(reference_image(224).expand(-1, 3, -1, -1))
    assert relative_error(tokens[0, ::7, ::16], expected["tokens"]) < TOLERANCE
    assert [tuple(skip.shape[1:]) for skip in skips] == [(512, 28, 28), (256, 56, 56), (64, 112, 112)]
    for index, skip in enumerate(skips):
        assert relative_error(skip[0, ::16, ::8, ::8], expected[f"skip{index}"]) < TOLERANCE


@torch.no_grad()
def test_attention_maps_are_the_reference_ones(published_hybrid: TransUNet) -> None:
    expected = np.load(OWN_REFERENCE / f"{HYBRID}.npz")
    maps = published_hybrid.attention_maps(reference_image(224))
    assert len(maps) == 12
    # Softmax magnifies the rounding of its input, so these are held to a looser bound than the logits.
    assert relative_error(maps[0][0, :, ::14, ::7], expected["attention_first"]) < 3e-4
    assert relative_error(maps[-1][0, :, ::14, ::7], expected["attention_last"]) < 3e-4


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["ViT-B_16_224_skip0_c9", pytest.param("ViT-B_32_224_skip0_c9", marks=pytest.mark.long)]
)
def test_published_plain_variants_give_the_reference_logits(shared_data: Path, name: str) -> None:
    golden = shared_data / "golden"
    net = reference_network(name, golden / "state_dicts" / f"{name}.json")
    expected = np.load(golden / "logits" / f"{name}.npz")
    logits = net(reference_image(224))
    assert relative_error(logits[0, :, ::4, ::4], expected["logits"]) < TOLERANCE
    assert (logits[0].argmax(0).numpy() == expected["labels"]).mean() > 0.9999


def test_state_dicts_have_the_published_keys_and_shapes(shared_data: Path) -> None:
    lists = sorted((shared_data / "golden" / "state_dicts").glob("*.json"))
    assert lists
    for keys in lists:
        variant, size, skips, classes = keys.stem.rsplit("_", 3)
        with on_meta_device():
            net = TransUNet(variant, int(classes[1:]), int(size), int(skips[4:]))
        got = {key: list(value.shape) for key, value in net.state_dict().items()}
        assert got == json.loads(keys.read_text()), keys.stem


@torch.no_grad()
def test_one_channel_is_repeated_and_three_are_used_as_they_are(small: TransUNet) -> None:
    grey = torch.rand(2, 1, 32, 64)
    torch.testing.assert_close(small(grey), small(grey.repeat(1, 3, 1, 1)))
    neighbours = torch.rand(2, 3, 32, 64)
    assert not torch.allclose(small(neighbours), small(neighbours.flip(1)))


@torch.no_grad()
def test_tokens_of_a_crop_are_those_of_the_whole_image_there() -> None:
    plain = TransUNet(Variant("plain", 16, 8, 16, 2, 1), 3, (64, 96)).eval()
    torch.nn.init.normal_(plain.transformer.embeddings.position_embeddings)
    image = torch.rand(2, 3, 64, 96)
    whole, _ = plain.transformer.embeddings(image)
    crops = torch.stack((image[0, :, 16:48, 32:80], image[1, :, :32, 16:64]))
    tokens, _ = plain.transformer.embeddings(crops, torch.tensor([[1, 2], [0, 1]]))
    grid = whole.unflatten(1, (4, 6))
    torch.testing.assert_close(tokens[0], grid[0, 1:3, 2:5].flatten(0, 1))
    torch.testing.assert_close(tokens[1], grid[1, :2, 1:4].flatten(0, 1))


@pytest.mark.parametrize(("patch", "hybrid"), [(14, False), (16, True), (32, True)])
@torch.no_grad()
def test_a_crop_gives_logits_of_its_size_and_the_whole_grid_those_of_the_image(
    patch: int, hybrid: bool
) -> None:
    net = TransUNet(Variant("small", patch, 8, 16, 2, 1, hybrid=hybrid), 3, 3 * patch).eval()
    image = torch.rand(1, 3, 3 * patch, 3 * patch)
    whole = net.decode(*net.encode(image, torch.zeros(1, 2, dtype=torch.long)))
    torch.testing.assert_close(whole, net(image))
    encoded = net.encode(image[..., : 2 * patch], torch.tensor([[0, 1]]))
    assert net.decode(*encoded, size=(3 * patch, 2 * patch)).shape == (1, 3, 3 * patch, 2 * patch)


@torch.no_grad()
def test_attention_rows_sum_to_one(small: TransUNet) -> None:
    maps = small.attention_maps(torch.rand(2, 1, 32, 64))
    assert [tuple(m.shape) for m in maps] == [(2, 3, 8, 8)] * 12
    for attention in maps:
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3, 8))


@torch.no_grad()
def test_attention_costs_nothing_when_nobody_asks(small: TransUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> torch.Tensor:
        raise AssertionError("probabilities were computed though nobody asked for them")

    monkeypatch.setattr("napari_transunet.model.encoder.Attention.probabilities", forbidden)
    assert small(torch.rand(1, 1, 32, 64)).shape == (1, 3, 32, 64)


@pytest.mark.parametrize("variant", ["R50-ViT-Ti_16", "testing"])
def test_every_parameter_gets_a_gradient(variant: str) -> None:
    torch.manual_seed(0)
    net = TransUNet(variant, 3, 64)
    net(torch.rand(2, 1, 64, 64)).square().mean().backward()
    without = [
        name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()
    ]
    assert not without


@pytest.mark.parametrize("n_skip", [0, 1, 2, 3])
def test_any_number_of_skips_works(n_skip: int) -> None:
    with on_meta_device():
        net = TransUNet(dataclasses.replace(VARIANTS["R50-ViT-Ti_16"], blocks=1), 2, 64, n_skip)
    assert net(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 2, 64, 64)
    widths = [block.conv1[0].in_channels for block in net.decoder.blocks]
    assert widths == [512 + 512 * (n_skip > 0), 256 + 256 * (n_skip > 1), 128 + 64 * (n_skip > 2), 64]


def test_a_hybrid_with_a_larger_patch_pools_its_features() -> None:
    variant = dataclasses.replace(VARIANTS["R50-ViT-Ti_16"], name="mine", patch=32, blocks=1)
    with on_meta_device():
        net = TransUNet(variant, 2, 64)
    assert net(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 2, 64, 64)
    with pytest.raises(InputError, match="it can be 0"):
        TransUNet(variant, 2, 64, n_skip=3)
    assert net.transformer.embeddings.patch_embeddings.kernel_size == (2, 2)
    assert net.grid == (2, 2)


@pytest.mark.parametrize(("variant", "n_skip"), [("ViT-B_16", 1), ("R50-ViT-B_16", 4), ("R50-ViT-B_16", -1)])
def test_skips_that_a_variant_cannot_offer_are_refused(variant: str, n_skip: int) -> None:
    with pytest.raises(InputError, match=f"n_skip = {n_skip} does not fit"):
        TransUNet(variant, n_skip=n_skip)


def test_wrong_inputs_are_refused_with_what_would_do(small: TransUNet) -> None:
    with pytest.raises(InputError, match="32×64 pixels, not 64×64"):
        small(torch.rand(1, 1, 64, 64))
    with pytest.raises(InputError, match="1 or 3"):
        small(torch.rand(1, 2, 32, 64))
    with pytest.raises(InputError, match="at least 1"):
        TransUNet("testing", num_classes=0)


def test_a_size_that_does_not_fit_names_the_nearest_that_do() -> None:
    with pytest.raises(InputError, match="224×224 or 240×240"):
        checked_size(225, 16)
    with pytest.raises(InputError, match="16×16"):
        checked_size(3, 16)


@pytest.mark.parametrize("size", [(1, 2, 3), (64,), 64.0, (64.0, 64.0), "64", None])
def test_what_is_no_size_is_refused(size: object) -> None:
    with pytest.raises(InputError, match="one whole number or"):
        checked_size(size, 16)  # type: ignore[arg-type]


def test_sizes_may_be_numpys() -> None:
    assert checked_size(np.int64(64), 16) == (64, 64)
    assert checked_size(np.array([32, 64]), 16) == (32, 64)


@settings(max_examples=200)
@given(st.integers(1, 1000), st.integers(1, 1000), st.sampled_from([14, 16, 32]))
def test_the_sizes_it_proposes_are_accepted(height: int, width: int, patch: int) -> None:
    try:
        assert checked_size((height, width), patch) == (height, width)
    except InputError as error:
        proposals = str(error).split("can: ")[1].rstrip(".").split(" or ")
        for proposal in proposals:
            checked_size([int(side) for side in proposal.split("×")], patch)
        assert all(
            abs(int(side) - wanted) < patch
            for proposal in proposals
            for side, wanted in zip(proposal.split("×"), (height, width), strict=True)
        )
    else:
        assert height % patch == 0
        assert width % patch == 0


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", ["ViT-H_14", "ViT-L_16", "ViT-L_32", "R50-ViT-L_16"])
def test_large_variants_run_for_real(name: str) -> None:
    torch.manual_seed(0)
    logits = TransUNet(name, 9, 224).eval()(torch.rand(1, 1, 224, 224))
    assert logits.shape == (1, 9, 224, 224)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0
