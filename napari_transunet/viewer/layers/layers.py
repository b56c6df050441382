"""Between volumes and napari layers: one world in millimetres, and the exact grid kept beside it.

A layer is placed by scale and translate alone, because napari 0.9 paints the wrong voxel through a slice that
is rotated out of plane. World axis k runs along array axis k, counted towards the patient's superior (z),
posterior (y) or left (x) side, whichever is nearest. An axis that is stored the other way round gets a negative
scale, so a picture stands the right way up and volumes of different storage order lie on each other. The
rotation that this drops is kept in the layer's metadata and comes back on export.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.export.source import provenance_of_file
from napari_transunet.files import available_memory
from napari_transunet.viewer.layers.from_file import ShownFromFile, levels_to_show
from napari_transunet.viewer.layers.layer_record import METADATA_KEY, LayerRecord, record_of
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.intensity import display_window, looks_like_ct, sampled
from napari_transunet.volumes.label_values import HIGHEST_LABEL, whole_numbers
from napari_transunet.volumes.labels import Label, LabelSet, color_for, default_color
from napari_transunet.volumes.lazy_array import LazyArray, Region, sample_of
from napari_transunet.volumes.volume import Source, Volume

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer
    from napari.viewer import ViewerModel

    from napari_transunet.volumes.labels import Color

AXIS_LABELS = ("z", "y", "x")
LABEL_OPACITY = 0.6
UNNAMED_COLOR = (0.75, 0.75, 0.75, 1.0)  # a label that nobody named must still be seen when it is painted

_GRAIN = 2.0**24  # placements are multiples of 2**-24 mm, so that napari's slice count comes out exact
_MATCH = 1e-4
_PART_OF_MEMORY = 4  # a lazy array that takes less than 1 / this of what is free is loaded as a whole
_SAME_COLOR = 1e-3  # napari keeps colours in float32
_MOST_LABELS, _FEW = 255, 40  # highest value, and number of values, of what looks like labels

PLACEMENT = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
"""The attributes of a layer, and their events, that say where it is shown."""

_NO_UNIT = "The layer has no unit of length; its scale was taken to be in millimetres."
_NO_ORIENTATION = "The layer says nothing about orientation; its axes were taken to point up, back and left."

LayerTuple = tuple[Any, dict[str, Any], str]


def placement(geometry: Geometry) -> dict[str, Any]:
    """`scale` and `translate` (mm along z, y, x), `units` and `axis_labels` of every layer on this grid.

    The scale of an axis is negative where its index runs towards the patient's inferior, anterior or right
    side. Both are rounded to 2**-24 mm: napari counts slices by truncating a quotient of floats, and would lose
    the last slice of about half of all volumes otherwise. The exact numbers stay in the metadata.
    """
    direction = np.asarray(geometry.direction, dtype=np.float64)
    cosines = direction[list(geometry.patient_axes), range(3)][::-1]  # of index axes z, y, x
    sign = np.where(cosines < 0, -1.0, 1.0)
    along = (direction.T @ np.asarray(geometry.origin, dtype=np.float64))[::-1]
    return {
        "scale": tuple(float(v) for v in sign * _on_grain(geometry.spacing)),
        "translate": tuple(float(v) for v in _on_grain(sign * along)),
        "units": ("mm", "mm", "mm"),
        "axis_labels": AXIS_LABELS,
    }


def placement_of(layer: Layer) -> dict[str, Any]:
    """Where a layer is shown, for another one of the same voxels; whoever made it may have rotated it, say."""
    return {name: getattr(layer, name) for name in PLACEMENT}


def volume_to_layer(volume: Volume, *, name: str | None = None) -> LayerTuple:
    """Layer data tuple of an image (or of labels, where the volume carries label names).

    The data is the volume's own array, not a copy; the layer's record holds the volume.
    """
    if volume.labels is not None:
        return labels_to_layer(volume.data, volume, volume.labels, name or volume.source.name)
    called = name or volume.source.name
    meta: dict[str, Any] = {
        **placement(volume.geometry),
        "name": called,
        "contrast_limits": display_window(volume),
        "metadata": {METADATA_KEY: LayerRecord(volume=volume)},
    }
    return _for_napari(volume.data, called), meta, "image"


def labels_to_layer(
    labels: npt.NDArray[Any],
    volume: Volume | Geometry,
    label_set: LabelSet | None,
    name: str,
    *,
    image: Layer | None = None,
) -> LayerTuple:
    """Layer data tuple of a label array (z, y, x) that lies on the grid of `volume`, shown where `image` is.

    Raises
    ------
    VolumeError
        The array has another shape than the grid.
    """
    geometry = volume.geometry if isinstance(volume, Volume) else volume
    if tuple(labels.shape) != tuple(geometry.shape):
        raise VolumeError(
            f"The labels have {sizes(labels.shape)} voxels but the image has {sizes(geometry.shape)}; "
            "they belong to different volumes."
        )
    label_set = label_set if label_set is not None else LabelSet()
    scan = file = None
    if isinstance(volume, Volume):
        scan, file = (volume.source, None) if volume.labels is None else (None, volume.source)
    # Now: an export may replace the file.
    opened = {}
    if file is not None and file.path is not None:
        opened = provenance_of_file(file.path, dict(file.picks).get("time"))
    record = LayerRecord(geometry=geometry, labels=label_set, scan=scan, file=file, opened=opened)
    meta: dict[str, Any] = {
        **(placement(geometry) if image is None else placement_of(image)),
        "name": name,
        "opacity": LABEL_OPACITY,
        "colormap": label_colormap(label_set),
        "features": label_features(label_set),
        "metadata": {METADATA_KEY: record},
    }
    return _for_napari(labels_dtype(labels), name), meta, "labels"


def _for_napari(voxels: Any, name: str) -> Any:
    """What napari gets of an array: of one in a file all its resolutions."""
    if not isinstance(voxels, LazyArray):
        return voxels
    levels = levels_to_show(voxels, name)
    return levels if len(levels) > 1 else levels[0]


def new_labels_layer(
    labels: npt.NDArray[Any],
    volume: Volume | Geometry,
    label_set: LabelSet,
    name: str,
    *,
    image: Layer | None = None,
) -> Labels:
    """A Labels layer as `labels_to_layer` describes it, not in a viewer yet; the brush paints its lowest named label.

    Raises
    ------
    VolumeError
        As `labels_to_layer`.
    """
    layer: Any = _create(labels_to_layer(labels, volume, label_set, name, image=image))
    if label_set.names:
        layer.selected_label = min(label_set.names)
    return layer


def labels_dtype(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array as napari shows it without a copy: unsigned 8 or 16 bits where the values allow it.

    Raises
    ------
    VolumeError
        Negative or fractional values, which no label can have.
    """
    if labels.dtype in (np.uint8, np.uint16):
        return labels
    if labels.dtype == np.bool_:
        return labels.astype(np.uint8)
    whole = whole_numbers(labels)
    low, high = (whole.min(), whole.max()) if whole.size else (0, 0)
    if low < 0:
        raise VolumeError(f"Labels must be 0 or more; this array goes from {low} to {high}.")
    target: type[np.unsignedinteger[Any]] = (
        np.uint8 if high < 256 else np.uint16 if high < 65536 else np.uint32
    )
    return whole.astype(target)


def label_colormap(label_set: LabelSet) -> Any:
    """napari `DirectLabelColormap` with the set's fixed colours; background clear, others by value."""
    from napari.utils.colormaps import DirectLabelColormap

    colors: dict[int | None, Any] = {None: np.array(UNNAMED_COLOR), 0: np.zeros(4)}
    for value in range(1, 256):
        colors[value] = np.array([*default_color(value), 1.0])
    for label in label_set:
        colors[label.value] = np.array([*label.color, 1.0])
    return DirectLabelColormap(color_dict=colors)


def label_features(label_set: LabelSet) -> dict[str, list[Any]]:
    """The table by which napari's status bar names the label under the cursor."""
    return {
        "index": [0, *(label.value for label in label_set)],
        "name": ["background", *(label.name for label in label_set)],
    }


def warm_up() -> None:
    """Make napari do now what it does once, with its first image and labels layer, which are never shown.

    GUI thread only: the unit registry that a layer sets up breaks when two threads use it for the first time at once.
    """
    geometry = Geometry.default((2, 4, 4))
    volume = Volume(np.zeros(geometry.shape, np.uint8), geometry, None, Source(None, "", "warm-up"))
    for layer in (volume_to_layer(volume), labels_to_layer(volume.data, volume, None, "warm-up")):
        _create(layer)


def add_volume(viewer: ViewerModel, volume: Volume, *, name: str | None = None) -> Layer:
    """Add the volume to the viewer as an image or labels layer and return the layer (GUI thread only)."""
    data, meta, kind = volume_to_layer(volume, name=name)
    layer = _create((data, meta, kind))
    if kind == "image":
        sample, limits = sampled(volume.data), meta["contrast_limits"]
        low, high = (float(sample.min()), float(sample.max())) if sample.size else (0.0, 1.0)
        layer.contrast_limits_range = (min(low, limits[0]), max(high, limits[1]))
        layer.contrast_limits = limits
    return viewer.add_layer(layer)


def remove_together(viewer: ViewerModel, layers: Iterable[Layer]) -> None:
    """Remove those of the layers that are in the viewer; napari frees what they held at once, and not one by one."""
    batch = getattr(viewer.layers, "batched_update", contextlib.nullcontext)  # from napari 0.7 on
    with batch():
        for layer in layers:
            if layer in viewer.layers:
                viewer.layers.remove(layer)


def problem_with(layer: Layer) -> str | None:
    """One sentence saying why this layer cannot be segmented, or None where it can. Reads no voxels."""
    kind = getattr(layer, "_type_string", "")
    if kind != "image":
        return f"“{layer.name}” is a {kind or 'special'} layer; choose an image layer."
    if getattr(layer, "rgb", False):
        return f"“{layer.name}” is a colour picture (RGB); TransUNet needs one grey value per voxel."
    shape = voxels_of(layer).shape
    if len(shape) > 3:
        return (
            f"“{layer.name}” has {len(shape)} dimensions ({sizes(shape)}); "
            "split it into three-dimensional volumes first, one per channel or time point."
        )
    if len(shape) < 3:
        return f"“{layer.name}” is a single picture ({sizes(shape)}); a volume needs three dimensions."
    if 0 in shape:
        return f"“{layer.name}” holds no voxels ({sizes(shape)})."
    if np.dtype(voxels_of(layer).dtype).kind not in "biuf":
        return f"“{layer.name}” holds {voxels_of(layer).dtype} values; TransUNet needs real numbers."
    try:
        geometry_of(layer)
    except VolumeError as error:
        return str(error)
    return None


def geometry_of(layer: Layer) -> Geometry:
    """The grid of an image or labels layer; from its metadata while that still holds, else as it is displayed.

    Raises
    ------
    VolumeError
        The layer has no three dimensions, or is sheared.
    """
    kept = record_of(layer).grid
    if kept is not None and kept.shape == tuple(voxels_of(layer).shape) and _is_where_put(layer, kept):
        return kept
    return displayed_geometry_of(layer)


def displayed_geometry_of(layer: Layer) -> Geometry:
    """The grid of an image or labels layer as it is shown, whatever else is known of it.

    Raises
    ------
    VolumeError
        The layer has no three dimensions, or is sheared.
    """
    shape: Any = tuple(int(n) for n in voxels_of(layer).shape)
    if len(shape) != 3:
        raise VolumeError(f"“{layer.name}” has {len(shape)} dimensions; a volume has three.")
    millimetres = np.diag([*(_millimetres(unit) for unit in layer.units), 1.0])
    swap = np.eye(4)[[2, 1, 0, 3]]  # between (z, y, x) and (x, y, z), on both sides
    try:
        return Geometry.from_affine_lps(swap @ millimetres @ world_matrix(layer) @ swap, shape)
    except VolumeError as error:
        raise VolumeError(
            f"“{layer.name}” is not on a rectangular grid with a voxel size; set its scale to the voxel size in "
            f"millimetres and remove any shear. ({error})"
        ) from error


def volume_of(layer: Image) -> Volume:
    """The volume behind an image layer; the array is the layer's own, without a copy.

    A layer that came from elsewhere gets its grid from scale, translate, rotation and units. A lazy array (dask,
    zarr) is computed here, which takes time: call this off the GUI thread for one (see `is_lazy`). One of more than a
    quarter of the free memory stays lazy: the volume's data is a `LazyArray`.

    Raises
    ------
    VolumeError
        RGB, not three-dimensional, empty, or not real numbers.
    """
    problem = problem_with(layer)
    if problem is not None:
        raise VolumeError(problem)
    geometry = geometry_of(layer)
    data = _load(layer)
    kept = record_of(layer).volume
    if kept is not None and kept.geometry == geometry:
        return kept if kept.data is data else replace(kept, data=data)
    # One that was cropped or rescaled by the user is the same scan.
    modality = kept.modality if kept is not None else "CT" if looks_like_ct(data) else None
    return Volume(data, geometry, modality, _source_elsewhere(layer))


def looks_like_labels(layer: Layer) -> bool:
    """Whether an image holds few small whole numbers and is of no known modality, as label files without names do."""
    record, data = record_of(layer), voxels_of(layer)
    if layer._type_string != "image" or record.volume is None or record.volume.modality is not None:
        return False
    if is_lazy(layer) or data.dtype.kind not in "iubf":
        return False
    sample = sampled(data)
    if not sample.size or not (sample.min() >= 0 and sample.max() <= _MOST_LABELS):  # so that NaN is none
        return False
    if data.dtype.kind == "f" and not np.array_equal(sample, np.rint(sample)):
        return False
    return len(np.unique(sample)) <= _FEW


def volume_job(layer: Image) -> Callable[[], Volume]:
    """A function that gives the volume on any thread: a lazy one is computed there, any other is taken here and now.

    Raises
    ------
    VolumeError
        The image is no volume.
    """
    volume = None if is_lazy(layer) else volume_of(layer)
    return lambda: volume or volume_of(layer)


def is_lazy(layer: Layer) -> bool:
    """Whether the layer's voxels still have to be computed or read (dask, zarr)."""
    return not isinstance(voxels_of(layer), np.ndarray)


def label_set_of(layer: Labels) -> LabelSet:
    """Names and colours of a labels layer: its record's, with the names of its features table and the colours shown.

    Whoever gives other names by a script, or by another plugin, changes that table alone; who picks other colours in
    napari's own controls, the colormap.
    """
    kept = record_of(layer).labels or LabelSet()
    names = kept.names
    given = {value: name for value, name in _names_in_features(layer).items() if names.get(value) != name}
    if given:
        colors = kept.colors
        renamed = (
            Label(value, name, colors.get(value) or color_for(name, value)) for value, name in given.items()
        )
        kept = LabelSet((*(label for label in kept if label.value not in given), *renamed))
    return as_shown(kept, layer.colormap)


def as_shown(label_set: LabelSet, colormap: Any) -> LabelSet:
    """The labels in the colours that a labels layer's colormap gives them; those that it leaves clear keep theirs."""
    colors = label_set.colors
    if not colors:
        return label_set
    shown = colors_in(colormap, colors)
    rgba = np.clip(np.array(list(shown.values()), np.float64), 0, 1)
    own = np.array([colors[value] for value in shown])
    # A label that is hidden is clear and has its colour still.
    others = rgba.any(1) & (np.abs(rgba[:, :3] - own).max(1) > _SAME_COLOR)
    if not others.any():
        return label_set
    picked: dict[int, Color] = {
        value: (red, green, blue)
        for value, (red, green, blue, _), other in zip(shown, rgba.tolist(), others, strict=True)
        if other
    }
    return LabelSet(tuple(replace(label, color=picked.get(label.value, label.color)) for label in label_set))


def colors_in(colormap: Any, values: Iterable[int]) -> dict[int, Any]:
    """RGBA of label values in a colormap of labels, whether or not *show selected* leaves them out."""
    from napari.utils.colormaps import CyclicLabelColormap

    wanted = sorted(values)
    known = getattr(colormap, "color_dict", None)
    if known is not None:
        other = known.get(None, np.ones(4))
        return {value: known.get(value, other) for value in wanted}
    cycle = CyclicLabelColormap(colors=colormap.colors, background_value=colormap.background_value)
    return dict(zip(wanted, cycle.map(np.array(wanted, np.int64)), strict=True))


def _names_in_features(layer: Labels) -> dict[int, str]:
    """Label value -> name, of the rows that tell both; the table may come from anywhere and hold anything."""
    features = layer.features
    found: dict[int, str] = {}
    if "index" not in features or "name" not in features:
        return found
    names = features["name"]
    for index, name, missing in zip(features["index"], names, names.isna(), strict=True):
        try:
            value = int(index)
            same = bool(value == index)
        except (TypeError, ValueError, OverflowError):  # text, or no number
            continue
        if same and 0 < value <= HIGHEST_LABEL and not missing and str(name).strip():
            found[value] = str(name)
    return found


def source_of(layer: Layer) -> Source | None:
    """Where the scan behind an image or labels layer came from, as far as it is known.

    Of an image of another program's it is known what is assumed of it.
    """
    record = record_of(layer)
    if record.volume is None and record.scan is None and layer._type_string == "image":
        return _source_elsewhere(layer)
    return record.volume.source if record.volume is not None else record.scan


def notes_of(layer: Layer) -> tuple[str, ...]:
    """What was assumed or left out when the layer's scan, or else its label file, was read: a sentence each."""
    source = source_of(layer) or record_of(layer).file
    return source.notes if source is not None else ()


def _source_elsewhere(layer: Layer) -> Source:
    notes = (_NO_ORIENTATION,) if all(map(_is_length, layer.units)) else (_NO_UNIT, _NO_ORIENTATION)
    return Source(None, "napari", str(layer.name), notes=notes)


def _create(made: LayerTuple) -> Layer:
    from napari.layers import Layer as NapariLayer

    return NapariLayer.create(*made)


def _is_where_put(layer: Layer, geometry: Geometry) -> bool:
    """Whether nobody moved, rescaled or rotated the layer since it was placed by this geometry."""
    placed = placement(geometry)
    expected = np.diag([*placed["scale"], 1.0])
    expected[:3, 3] = placed["translate"]
    return bool(np.allclose(world_matrix(layer), expected, rtol=0, atol=_MATCH * min(1.0, *geometry.spacing)))


def world_matrix(layer: Layer) -> npt.NDArray[np.float64]:
    """4x4 from voxel index (z, y, x) to world, in the layer's own units."""
    origin = np.asarray(layer.data_to_world((0.0, 0.0, 0.0)), dtype=np.float64)
    matrix = np.eye(4)
    for axis in range(3):
        unit = np.eye(3)[axis]
        matrix[:3, axis] = np.asarray(layer.data_to_world(tuple(unit))) - origin
    matrix[:3, 3] = origin
    return matrix


def _is_length(unit: Any) -> bool:
    return bool((1 * unit).check("[length]"))


def _millimetres(unit: Any) -> float:
    """Millimetres in one of the layer's units; a unit that is no length (pixel) counts as one."""
    return float((1 * unit).to("mm").magnitude) if _is_length(unit) else 1.0


def voxels_of(layer: Layer) -> Any:
    """The layer's array, of the finest level where there are several; may be lazy."""
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    return data.voxels if isinstance(data, ShownFromFile) else data


def _load(layer: Layer) -> Any:
    data = voxels_of(layer)
    if isinstance(data, np.ndarray | LazyArray):
        return data
    needed = int(np.prod(data.shape, dtype=np.int64)) * np.dtype(data.dtype).itemsize
    return np.asarray(data) if needed <= available_memory() / _PART_OF_MEMORY else _lazily(data)


def _lazily(data: Any) -> LazyArray:
    """An array of dask, Zarr or the like, read as it is asked for."""
    shape: Any = tuple(int(n) for n in data.shape)
    chunks: Any = getattr(data, "chunksize", None) or getattr(data, "chunks", None)
    if not (isinstance(chunks, tuple) and len(chunks) == 3 and all(isinstance(n, int) for n in chunks)):
        chunks = (1, *shape[1:])

    def read(region: Region) -> npt.NDArray[Any]:
        return np.asarray(data[region])

    return LazyArray(shape, np.dtype(data.dtype), chunks, read, lambda: sample_of(read, shape))


def _on_grain(values: Any) -> npt.NDArray[np.float64]:
    return np.round(np.asarray(values, dtype=np.float64) * _GRAIN) / _GRAIN


def sizes(shape: Iterable[int]) -> str:
    """A shape in a sentence: "133 × 512 × 512"."""
    return " × ".join(str(int(n)) for n in shape)
