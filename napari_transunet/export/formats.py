"""The formats of an export, and which of them can be made of a scan's labels."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from napari_transunet.files import is_installed
from napari_transunet.io.dicom.referenced_series import why_not
from napari_transunet.io.writing import writable_suffix
from napari_transunet.volumes.volume import Source

FORMATS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "nifti": (".nii.gz", "NIfTI, compressed"),
        "nii": (".nii", "NIfTI, not compressed"),
        "nrrd": (".nrrd", "NRRD"),
        "slicer": (".seg.nrrd", "3D Slicer segmentation, with names and colours"),
        "metaimage": (".mha", "MetaImage"),
        "dicom-seg": (".dcm", "DICOM segmentation that refers to the scan's series"),
        "rtstruct": (".rtstruct.dcm", "DICOM structure set (RTSTRUCT): contours on the scan's series"),
        "masks": ("_*.nii.gz", "One binary mask for each organ (NIfTI)"),
        "stl": ("_*.stl", "One surface for each organ (STL)"),
        "ply": ("_*.ply", "One surface for each organ, coloured (PLY)"),
        "label-table": (".label.txt", "Names and colours for ITK-SNAP"),
    }
)
"""Format -> ending (a star stands for the organ's name) and what it is."""

VOLUMES = ("nifti", "nii", "nrrd", "slicer", "metaimage")
"""Those that hold all labels in one file that napari reads."""

REFERRING = ("rtstruct", "dicom-seg")
"""Those in one file that refer to the scan's DICOM series; the longer ending first."""

PER_ORGAN = frozenset({"masks", "stl", "ply"})


def format_of(path: Path) -> str:
    """The format of one file for all labels, by its ending.

    Raises
    ------
    VolumeError
        No such format has this ending.
    """
    suffix = writable_suffix(path)
    return next(name for name in VOLUMES if FORMATS[name][0] == suffix)


def formats_of(names: Iterable[str], stem: str) -> tuple[str, ...]:
    """The formats in which an export of this stem wrote files of these names."""

    def fits(name: str, ending: str) -> bool:
        begin, star, end = (stem + ending).partition("*")
        # An organ's name stands for the star.
        return (
            name == begin
            if not star
            else name.startswith(begin) and name.endswith(end) and len(name) > len(begin + end)
        )

    known = list(names)
    return tuple(key for key, (ending, _) in FORMATS.items() if any(fits(name, ending) for name in known))


def unavailable(format_name: str, source: Source | None) -> str | None:
    """Why a format cannot be made of labels of this scan; None where it can."""
    if format_name in REFERRING and (reason := why_not(source)) is not None:
        return reason
    if format_name == "dicom-seg" and not is_installed("highdicom"):
        return 'Needs highdicom: pip install "napari-transunet[export]".'
    if format_name in ("rtstruct", "stl", "ply") and not is_installed("scikit-image"):
        return 'Needs scikit-image: pip install "napari-transunet[export]".'
    return None
