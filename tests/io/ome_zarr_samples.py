"""Small OME-Zarr images, written by Zarr alone."""

import http.server
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

UNITS = {"z": "millimeter", "y": "micrometer", "x": "micrometer"}


def write_ome_zarr(
    folder: Path,
    data: np.ndarray,
    *,
    axes: str = "zyx",
    version: str = "0.5",
    chunks: tuple[int, ...] | None = None,
    scale: tuple[float, ...] = (2.0, 500.0, 800.0),
    translation: tuple[float, ...] = (10.0, 1000.0, -2000.0),
    levels: int = 2,
    **more: Any,
) -> Path:
    """An image with `levels` resolutions, each with every second voxel of the one before along y and x."""
    group = zarr.open_group(folder, mode="w", zarr_format=3 if version == "0.5" else 2)
    extra = len(axes) - 3
    datasets = []
    for level in range(levels):
        group.create_array(
            f"s{level}",
            data=np.ascontiguousarray(data),
            chunks=tuple(min(c, n) for c, n in zip(chunks or (4,) * data.ndim, data.shape, strict=True)),
            **({"dimension_names": list(axes)} if version == "0.5" else {}),
            **more,
        )
        factor = 2**level
        transforms = [
            {"type": "scale", "scale": [1.0] * extra + [scale[0], scale[1] * factor, scale[2] * factor]},
            {"type": "translation", "translation": [0.0] * extra + list(translation)},
        ]
        datasets.append({"path": f"s{level}", "coordinateTransformations": transforms})
        data = data[..., ::2, ::2]
    kinds = {"t": "time", "c": "channel"}
    described = [
        {"name": name, "type": kinds.get(name, "space"), **({"unit": UNITS[name]} if name in UNITS else {})}
        for name in axes
    ]
    entry: dict[str, Any] = {"name": "scan", "axes": described, "datasets": datasets}
    omero = (
        {"channels": [{"label": f"stain {n}"} for n in range(data.shape[axes.index("c")])]}
        if "c" in axes
        else {}
    )
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": [entry], **({"omero": omero} if omero else {})}
    else:
        group.attrs.update(
            {"multiscales": [entry | {"version": "0.4"}], **({"omero": omero} if omero else {})}
        )
    return folder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # chunks are asked for at once; for one without a place, again after a second


@contextmanager
def served(folder: Path):
    """The folder over HTTP on this machine; gives the address."""
    server = _Server(("127.0.0.1", 0), partial(_Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
