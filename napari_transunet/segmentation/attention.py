"""What a patch of a slice attends to, as an image on the slice's own grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from napari_transunet.segmentation.predictor import Predictor
    from napari_transunet.segmentation.slices import SliceSource
    from napari_transunet.volumes.volume import Volume


def attention_plane(
    predictor: Predictor,
    volume: Volume | npt.NDArray[np.generic],
    voxel: Sequence[int],
    *,
    block: int = -1,
    head: int | None = None,
) -> npt.NDArray[np.float32]:
    """How much the patch that holds a voxel attends to each place of its slice.

    Parameters
    ----------
    predictor, volume : the network, and what it looks at
    voxel : (z, y, x) of the volume's array
    block : which transformer block, from 0; negative ones count from the last
    head : which head, from 0; the mean of all where it is None

    Returns
    -------
    float32, the slice across the volume's slice axis, from 0 to 1 for the patch attended to most.

    Raises
    ------
    InputError
        There is no such voxel, block or head, or the network does not see that voxel.
    """
    shape = (volume if isinstance(volume, np.ndarray) else volume.data).shape
    if len(voxel) != 3 or any(not 0 <= at < size for at, size in zip(voxel, shape, strict=True)):
        raise InputError(f"There is no voxel {tuple(voxel)} in a volume of {shape} voxels (z, y, x).")
    axis = predictor.slice_axis(volume)
    source = predictor.slice_source(volume)
    maps = predictor.attention(volume, int(voxel[axis]))
    if not -len(maps) <= block < len(maps):
        raise InputError(f"There is no block {block}; this network has {len(maps)}.")
    chosen = maps[block]
    if head is not None and not 0 <= head < len(chosen):
        raise InputError(f"There is no head {head}; the blocks of this network have {len(chosen)}.")
    # Where the voxel lies in the slice as the network's source holds it: a one-hot plane goes the labels' way back.
    places = np.arange(source.resize.shape[0] * source.resize.shape[1]).reshape(source.resize.shape)
    in_plane = tuple(int(at) for at in np.delete(np.asarray(voxel), axis))
    row, column = np.unravel_index(int(source.to_volume(places)[in_plane]), places.shape)
    pixel = _pixel(source.resize.back_rows, int(row)), _pixel(source.resize.back_columns, int(column))
    if not bool(source.resize.rows[pixel[0]].any() and source.resize.columns[pixel[1]].any()):
        raise InputError("The network does not see this place; click nearer to the middle of the image.")
    grid, patch = predictor.token_grid
    token = (pixel[0] // patch) * grid[1] + pixel[1] // patch
    weights = (chosen.mean(dim=0) if head is None else chosen[head])[token]
    return _on_slice(weights.reshape(grid), patch, source)


def _on_slice(weights: torch.Tensor, patch: int, source: SliceSource) -> npt.NDArray[np.float32]:
    blocks = weights.repeat_interleave(patch, 0).repeat_interleave(patch, 1)
    plane = source.resize.inverse(blocks.to(source.resize.back_rows)).clamp(min=0)
    highest = float(plane.max())
    scaled = (plane / highest if highest > 0 else plane).cpu().numpy().astype(np.float32)
    return np.ascontiguousarray(source.to_volume(scaled))


def _pixel(back: torch.Tensor, index: int) -> int:
    """The pixel of the network's grid that has most to say about a pixel of the slice."""
    return int(back[index].argmax())
