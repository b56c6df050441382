"""The values of a volume, judged from a sample of its voxels."""

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_transunet.volumes.lazy_array import LazyArray
from napari_transunet.volumes.volume import Volume

_SAMPLES = 200_000
_ABDOMINAL = (-160.0, 240.0)  # HU: level 40, width 400


def as_float32(data: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A copy in float32; numbers that it cannot hold become infinite, and so count as none."""
    with np.errstate(over="ignore"):
        return data.astype(np.float32)


def sampled(data: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Evenly spread finite voxels, about 200,000 at most: enough for limits, and fast enough for the GUI thread."""
    if data.size == 0:
        return np.empty(0, np.float32)
    if isinstance(data, LazyArray):
        return sampled(data.sample())
    step = max(1, round((data.size / _SAMPLES) ** (1 / data.ndim)))
    sample = as_float32(data[(slice(None, None, step),) * data.ndim]).ravel()
    return sample[np.isfinite(sample)]


def looks_like_ct(data: npt.NDArray[Any]) -> bool:
    """Whether the values look like Hounsfield units: fat or air, and nothing far above metal.

    Fat lies about -100, so that scans whose air was cropped or clipped away count too.
    """
    sample = sampled(data)
    return bool(sample.size) and bool(
        sample.min() <= -100 and sample.min() >= -5000 and sample.max() <= 20000
    )


def display_window(volume: Volume) -> tuple[float, float]:
    """What is shown black and white: an abdominal window for CT, else the 0.5 and 99.5 percentiles of a sample."""
    if volume.modality == "CT" or (volume.modality is None and looks_like_ct(volume.data)):
        return _ABDOMINAL
    sample = sampled(volume.data)
    if not sample.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(sample, (0.5, 99.5)))
    return low, high if high > low else low + 1.0


def value_range(data: npt.NDArray[Any]) -> str:
    """The lowest and the highest value in words: "values -1,024 to 1,530"."""
    sample = sampled(data)
    if not sample.size:
        return "no values"
    low, high = float(sample.min()), float(sample.max())
    places = 0 if high - low >= 20 else 2
    return f"values {low:,.{places}f} to {high:,.{places}f}"
