"""Which volumes suit which model card, by modality, values and size."""

from pathlib import Path

import numpy as np
import pytest

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.inference.compatibility import (
    MUCH_LARGER,
    doubt_about,
    doubt_about_augmentation,
    is_its_modality,
    reason_to_choose,
)
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.io.reading import read_volume
from napari_transunet.training.augmentation import Augmentation
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.phantom import synthetic_ct
from napari_transunet.volumes.volume import Source, Volume

NETWORK = {"variant": "testing", "num_classes": 3, "img_size": 32}
CT = ModelCard.from_mapping({**NETWORK, "modality": "CT", "orientation": "LPS"})
MR = ModelCard.from_mapping({**NETWORK, "modality": "MR", "orientation": "LPS"})
CROPS = MR.updated(extent=(48.0, 60.0, 42.0))

LPS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
SAGITTAL = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))  # index axes x, y, z run to P, S, L


def volume_of(
    shape: tuple[int, int, int] = (36, 50, 35),
    *,
    low: float = 0,
    high: float = 1743,
    modality: str | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    direction: tuple[tuple[float, float, float], ...] = LPS,
) -> Volume:
    values = np.linspace(low, high, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    geometry = Geometry(shape, spacing, (0.0, 0.0, 0.0), direction)  # type: ignore[arg-type]
    return Volume(values, geometry, modality, Source(None, "NIfTI", "scan"))


def test_a_known_modality_decides() -> None:
    ct, mr = volume_of(low=0, modality="CT"), volume_of(low=-1000, modality="MR")
    assert reason_to_choose(ct, CT) == "it is CT"
    assert reason_to_choose(mr, CROPS) == "it is MR"
    assert reason_to_choose(mr, MR) is None, "MR says neither sequence nor part of the body"
    assert doubt_about(mr, MR) is None
    assert is_its_modality(mr, MR), "but enough to propose it"
    assert reason_to_choose(ct, MR) is None
    assert not is_its_modality(ct, MR)
    assert reason_to_choose(mr, CT) is None
    assert "expects CT; the volume is MR" in (doubt_about(mr, CT) or "")


def test_hounsfield_units_stand_for_ct() -> None:
    volume, _, _ = synthetic_ct((12, 48, 56))
    unknown = Volume(volume.data, volume.geometry, None, volume.source)
    assert "it looks like CT (values -1," in (reason_to_choose(unknown, CT) or "")
    assert reason_to_choose(unknown, MR) is None
    assert not is_its_modality(unknown, MR)
    assert reason_to_choose(unknown, CROPS) is None
    assert "looks like CT" in (doubt_about(unknown, MR) or "")


def test_a_ct_whose_air_was_clipped_away_is_still_one() -> None:
    assert "looks like CT (values -125 to 275)" in (reason_to_choose(volume_of(low=-125, high=275), CT) or "")


def test_a_crop_of_unknown_modality_gets_a_checkpoint_that_knows_crops() -> None:
    reason = reason_to_choose(volume_of(), CROPS)
    assert reason is not None
    assert "may be MR (values 0 to 1,743)" in reason
    assert "(35 × 50 × 36 mm)" in reason
    assert reason_to_choose(volume_of(), CT) is None


@pytest.mark.parametrize(
    "volume",
    [
        volume_of((24, 256, 256)),  # a head
        volume_of((36, 50, 35), spacing=(5.0, 1.0, 1.0)),
        volume_of(low=-50, high=300),  # neither fat nor air, so it may be anything
        volume_of(low=np.nan, high=np.nan),
    ],
)
def test_other_volumes_of_unknown_modality_get_none(volume: Volume) -> None:
    for card in (CT, MR, CROPS):
        assert reason_to_choose(volume, card) is None


def test_without_a_size_on_the_card_nothing_speaks_for_mr() -> None:
    assert doubt_about(volume_of(), MR) is None
    assert reason_to_choose(volume_of(), MR) is None
    assert reason_to_choose(volume_of(), ModelCard.from_mapping(NETWORK)) is None


def test_a_much_larger_volume_is_doubted_whatever_its_modality() -> None:
    head = volume_of((150, 220, 200), modality="MR")
    assert doubt_about(head, CROPS) == (
        "This checkpoint was trained on volumes of at most 42 × 60 × 48 mm; this one measures 200 × 220 × 150 mm."
    )
    assert reason_to_choose(head, CROPS) is None
    assert doubt_about(head, MR) is None


@pytest.mark.parametrize("axis", range(3))
def test_the_size_is_measured_in_the_orientation_of_the_card(axis: int) -> None:
    """Stored sagittally, the array's axes z, y, x run left, up, and to the back: the card's x, z and y."""
    assert CROPS.extent is not None
    most = [MUCH_LARGER * CROPS.extent[own] for own in (2, 0, 1)]
    counts = [10, 10, 10]
    shape = (counts[0], counts[1], counts[2])

    def measuring(lengths: list[float]) -> Volume:
        spacing = [length / count for length, count in zip(lengths, shape, strict=True)]
        return volume_of(shape, spacing=(spacing[0], spacing[1], spacing[2]), direction=SAGITTAL)

    assert doubt_about(measuring([length * 0.999 for length in most]), CROPS) is None
    longer = [length * (1.001 if own == axis else 0.999) for own, length in enumerate(most)]
    assert doubt_about(measuring(longer), CROPS) is not None


def test_real_hippocampi_suit_a_checkpoint_of_their_size(shared_data: Path) -> None:
    paths = sorted((shared_data / "data" / "hippocampus_mr" / "images").glob("*.nii.gz"))[::20]
    if not paths:
        pytest.skip("the hippocampus images are not there")
    for path in paths:
        volume = read_volume(path)
        assert volume.modality is None
        assert reason_to_choose(volume, CROPS) is not None, path
        assert reason_to_choose(volume, CT) is None, path


def test_looks_that_the_network_did_not_learn_from_are_doubted() -> None:
    def learnt(*, mirror: bool) -> ModelCard:
        return MR.updated(training={"recipe": Augmentation(mirror=mirror).sentence()})

    mirrored, three = PredictorOptions(mirror_tta=True), PredictorOptions(orthogonal_planes=True)
    assert doubt_about_augmentation(learnt(mirror=False), PredictorOptions()) is None
    assert "never mirrored" in str(doubt_about_augmentation(learnt(mirror=False), mirrored))
    assert doubt_about_augmentation(learnt(mirror=True), mirrored) is None
    assert doubt_about_augmentation(MR, mirrored) is None  # it does not say
    assert "one axis alone" in str(doubt_about_augmentation(MR, three))
    assert doubt_about_augmentation(MR.updated(planes=3), three) is None
