"""What a patch of a slice attends to, as an image on the slice's own grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from napari_transunet.inference.predictor import Predictor
    from napari_transunet.inference.slices import SliceSource
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
    """
    shape = (volume if isinstance(volume, np.ndarray) else volume.data).shape
    if len(voxel) != 3 or any(not 0 <= at < size for at, size in zip(voxel, shape, strict=True)):
        raise InputError(f"There is no voxel {tuple(voxel)} in a volume of {shape} voxels (z, y, x).")
    axis = predictor.slice_axis(volume)
    source = predictor.slice_source(volume)
    pixel = _network_pixel(source, [int(at) for i, at in enumerate(voxel) if i != axis])
    maps = predictor.attention(volume, int(voxel[axis]))
    if not -len(maps) <= block < len(maps):
        raise InputError(f"There is no block {block}; this network has {len(maps)}.")
    chosen = maps[block]
    if head is not None and not 0 <= head < len(chosen):
        raise InputError(f"There is no head {head}; the blocks of this network have {len(chosen)}.")
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


def _network_pixel(source: SliceSource, in_plane: Sequence[int]) -> tuple[int, int]:
    """The pixel of the network's grid that has most to say about a voxel, given across the volume's slice axis."""
    resize = source.resize
    # Where the voxel lies in the slice as the source holds it: numbered places go the labels' way back.
    places = np.arange(resize.shape[0] * resize.shape[1]).reshape(resize.shape)
    row, column = divmod(int(source.to_volume(places)[tuple(in_plane)]), resize.shape[1])
    back = resize.back_rows[row], resize.back_columns[column]
    pixel = int(back[0].argmax()), int(back[1].argmax())
    # Nothing leads back to the last row or column at some sizes of the paper's zoom, nor forward to padding.
    ways = (*back, resize.rows[pixel[0]], resize.columns[pixel[1]])
    if not all(bool(way.any()) for way in ways):
        raise InputError("The network does not see this place; click nearer to the middle of the image.")
    return pixel
