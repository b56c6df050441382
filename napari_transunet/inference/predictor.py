"""From a volume to labels on its grid: the stateful side of prediction, beside the pure network."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_transunet.checkpoints.card import ModelCard, default_card
from napari_transunet.checkpoints.loading import Checkpoint
from napari_transunet.checkpoints.quantization import ActivationRanges, ranges_beside
from napari_transunet.errors import CheckpointError, InputError
from napari_transunet.inference.backends import make_network, resolve_backend, resolve_dtype
from napari_transunet.inference.batching import (
    BatchRunner,
    OutOfMemoryError,
    default_batch_size,
    fits_in_memory,
    if_it_fits,
    nearest_first,
    outward,
)
from napari_transunet.inference.constant_slices import ConstantSliceCache
from napari_transunet.inference.devices import resolve_device
from napari_transunet.inference.multiplanar import MultiplanarPredictions, Probabilities, check_three_planes
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.inference.prediction import Labels, PredictionCancelled, SlicePrediction
from napari_transunet.inference.slices import PLANES, SliceSource, SliceStack, as_volume, orientation_for
from napari_transunet.inference.small_parts import without_small_parts
from napari_transunet.inference.tta import mean_over_mirrors
from napari_transunet.inference.uncertainty import SliceUncertainty, inside_of, uncertainty_of
from napari_transunet.model.checks import is_finite
from napari_transunet.model.inference import InferenceTransUNet
from napari_transunet.model.transunet import TransUNet
from napari_transunet.volumes.label_values import whole_number
from napari_transunet.volumes.lazy_array import LazyArray
from napari_transunet.volumes.volume import Volume

_log = logging.getLogger(__name__)

_LAZY_BATCH_VOXELS = 1 << 24
"""Voxels of a batch, in slices of a volume that stays in its file."""


class Predictor:
    """Segments volumes with one network. It keeps a copy of the network that is made for prediction.

    Parameters
    ----------
    model
        What `load_checkpoint` returned, or a bare `TransUNet` (then the published CT window, or `card`).
    options
        How to predict; the defaults of `PredictorOptions` without it.
    card
        Takes the place of the checkpoint's card.
    ranges
        Activation ranges for 8 bits; by default those that lie beside the checkpoint's file.
    **changes
        Fields of `PredictorOptions` that take the place of those in `options`: `device`, `precision`, `batch_size`,
        `pipeline`, `backend`, `orthogonal_planes`, `mirror_tta`.

    Attributes
    ----------
    options : as given
    device, precision, backend : `torch.device`, `torch.dtype` and name in use
    precision_name : the precision as people write it, e.g. "bfloat16"
    pipeline, batch_size : as given or chosen
    card : the model card in use
    orthogonal_planes, mirror_tta : whether slices are taken along all three axes, and averaged with mirror images
    checkpoint : the checkpoint; None for a bare network
    labels_dtype : uint8, or uint16 above 255 classes

    Raises
    ------
    InputError
        A device, precision or pipeline that does not exist or is not here, a batch size below 1, a card that
        describes another network, or planes or mirror images that this card or pipeline does not allow.
    """

    def __init__(
        self,
        model: Checkpoint | TransUNet,
        options: PredictorOptions | None = None,
        *,
        card: ModelCard | None = None,
        ranges: ActivationRanges | None = None,
        **changes: Any,
    ) -> None:
        self.options = options = (options or PredictorOptions()).changed(**changes)
        self.checkpoint = model if isinstance(model, Checkpoint) else None
        net = model.model if isinstance(model, Checkpoint) else model
        if not isinstance(net, TransUNet):
            raise InputError(
                f"A predictor needs what load_checkpoint returns, or a TransUNet, not {type(net).__name__}."
            )
        own_card = self.checkpoint.card if self.checkpoint else default_card(net)
        self.card = own_card if card is None else card
        wrong = self.card.contradictions(net.variant.name, net.num_classes, net.n_skip, net.img_size)
        if wrong:
            raise InputError(f"The model card describes another network: {', '.join(wrong)}.")
        self.pipeline = options.pipeline
        self.orthogonal_planes = _orthogonal_planes(options, self.card)
        self.mirror_tta = options.mirror_tta
        self.device = resolve_device(options.device)
        self.backend = resolve_backend(options.backend, self.device)
        exact = options.pipeline == "paper" and options.precision == "auto"
        precision = "float32" if exact else options.precision
        if ranges is None and self.backend == "openvino" and self.checkpoint is not None:
            ranges = _own_ranges(self.checkpoint, precision)
        self.precision = resolve_dtype(precision, self.device, self.backend, ranges, net.img_size)
        self.precision_name = str(self.precision).removeprefix("torch.")
        if options.backend == "auto" and self.precision == torch.float32:
            self.backend = "torch"  # nearer to what was trained, and ready sooner; OpenVINO gains little here
        self.batch_size = options.batch_size or default_batch_size(self.device, self.backend, net.img_size)
        self.labels_dtype = np.dtype(np.uint8 if net.num_classes <= 255 else np.uint16)
        self._size = net.img_size
        self._grid = net.grid
        self._variant = net.variant
        self._net = net
        self._network = make_network(
            net,
            self.backend,
            device=self.device,
            precision=self.precision,
            batch=self.batch_size,
            ranges=ranges,
        )

    @property
    def planes(self) -> int:
        """The old name of `orthogonal_planes`: 1 or 3."""
        warnings.warn("Predictor.planes is called orthogonal_planes now.", DeprecationWarning, stacklevel=2)
        return 3 if self.orthogonal_planes else 1

    @property
    def flips(self) -> bool:
        """The old name of `mirror_tta`."""
        warnings.warn("Predictor.flips is called mirror_tta now.", DeprecationWarning, stacklevel=2)
        return self.mirror_tta

    def slice_axis(self, volume: Volume | npt.NDArray[Any]) -> int:
        """The axis of the volume's array along which slices are taken: 0 unless the card wants them otherwise."""
        if self.pipeline == "paper" or not isinstance(volume, Volume):
            return 0
        return orientation_for(volume, self.card).slice_axis

    def predict(
        self,
        volume: Volume | npt.NDArray[Any],
        *,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        unsure: Callable[[int, SliceUncertainty], None] | None = None,
    ) -> Labels:
        """Labels of a whole volume, of the shape of its array: uint8, or uint16 above 255 classes.

        Parameters
        ----------
        volume : a `Volume`, or a bare (z, y, x) array that lies as the model card wants it
        progress : called with the slices done and their number, after every batch
        cancelled : asked before every batch
        unsure : called with the index of every slice along `slice_axis` and how unsure the network was of it

        Raises
        ------
        InputError
            The array is no volume, or the network's numbers overflow the precision.
        OutOfMemoryError
            The device cannot hold even a single slice.
        PredictionCancelled
            `cancelled` said so.
        """
        volume = self._accepted(volume)
        shape = (volume if isinstance(volume, np.ndarray) else volume.data).shape
        labels = np.zeros(shape, self.labels_dtype)
        along = np.moveaxis(labels, self.slice_axis(volume), 0)
        done: set[int] = set()
        for batch in self.iter_batches(volume, cancelled=cancelled, uncertainty=unsure is not None):
            for item in batch:
                along[item.index] = item.plane
                if unsure is not None and item.uncertainty is not None:
                    unsure(item.index, item.uncertainty)
            done.update(item.index for item in batch)
            if progress is not None:
                progress(len(done), len(along))
        if len(done) < len(along):
            raise PredictionCancelled(f"Cancelled after {len(done)} of {len(along)} slices.")
        return labels

    def iter_slices(
        self,
        volume: Volume | npt.NDArray[Any],
        *,
        first: int | None = None,
        slices: Sequence[int] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[tuple[int, Labels]]:
        """(index, plane) of each slice as it is done; what `iter_batches` yields, one by one."""
        batches = self.iter_batches(volume, first=first, slices=slices, cancelled=cancelled)
        return ((item.index, item.plane) for batch in batches for item in batch)

    def iter_batches(
        self,
        volume: Volume | npt.NDArray[Any],
        *,
        first: int | None = None,
        slices: Sequence[int] | None = None,
        cancelled: Callable[[], bool] | None = None,
        uncertainty: bool = False,
        known: Mapping[int, Labels] | None = None,
    ) -> Iterator[list[SlicePrediction]]:
        """The slices of each batch as it is done; ends early once `cancelled` says so.

        Where the whole volume is predicted and the card has a `smallest_part`, slices that lost small parts come again
        with the last batch, before its own and without an uncertainty; the later plane is the right one.

        Parameters
        ----------
        volume : a `Volume`, or a bare (z, y, x) array that lies as the model card wants it
        first : index along `slice_axis` of the slice to begin with, in a batch of its own so that it is there at
            once; the others follow outward from it
        slices : only these, in this order unless `first` is given
        known : planes of slices that an earlier call gave; with all that `slices` lacks, the whole volume is predicted
        cancelled : asked before every batch
        uncertainty : report of each slice how unsure the network is; the labels are the same

        Raises
        ------
        InputError
            As `predict`; also for an index that the volume does not have. Arguments are checked at once, before
            the first batch is asked for.
        """
        sources = self._sources(volume)
        order = _order(len(sources[0]), first, slices)
        batch = self.batch_size
        if isinstance(sources[0].data, LazyArray):  # of which nobody wants many large slices in memory
            batch = max(1, min(batch, _LAZY_BATCH_VOXELS // math.prod(sources[0].data.shape[1:])))
        runner = BatchRunner(self.device, batch, self._size, cancelled or _never)
        batches = self._run(sources, order, runner, first_alone=first is not None, uncertainty=uncertainty)
        source, share, every = sources[0], self.card.smallest_part, set(range(len(sources[0])))
        whole = slices is None or (known is not None and {*order, *known} == every)
        if share is None or not whole or self.pipeline == "paper" or isinstance(source.data, LazyArray):
            return batches
        labels = np.zeros((len(source), *source.to_volume(source.data[0]).shape), self.labels_dtype)
        for index, plane in (known or {}).items():
            labels[index] = plane
        return without_small_parts(batches, labels, every.difference(known or ()), share, runner.cancelled)

    @property
    def token_grid(self) -> tuple[tuple[int, int], int]:
        """Tokens of the transformer along height and width, and the pixels that one covers along each."""
        return self._grid, self._size[0] // self._grid[0]

    def slice_source(self, volume: Volume | npt.NDArray[Any]) -> SliceSource:
        """How this volume's slices are made for the network, and the way back."""
        return self._sources(volume)[0]

    def attention(self, volume: Volume | npt.NDArray[Any], index: int) -> list[Tensor]:
        """What the tokens of one slice attend to: float32 (heads, N, N) on the CPU for every block.

        Raises
        ------
        InputError
            As `predict`; also for an index that the volume does not have.
        OutOfMemoryError
            The maps do not fit into the memory; they grow with the fourth power of the image's side.
        """
        source = self.slice_source(volume)
        (wanted,) = _order(len(source), None, [index])
        size = 4 * self._variant.blocks * self._variant.heads * math.prod(self._grid) ** 2
        message = (
            f"The attention maps of {self._size[0]}×{self._size[1]} pixels take {size / 1e9:.1f} GB, more than is "
            "free; choose a smaller image size, or close other programs."
        )
        if not fits_in_memory(size):
            raise OutOfMemoryError(message)

        def maps_of(indices: Sequence[int]) -> list[Tensor]:
            return [maps[0].float().cpu() for maps in self._in_torch.attention_maps(source.images(indices))]

        found = if_it_fits(maps_of, [wanted], self.device)
        if found is None:
            raise OutOfMemoryError(message)
        return found

    @cached_property
    def _in_torch(self) -> InferenceTransUNet:
        """The network as PyTorch runs it, which alone tells of attention."""
        if isinstance(self._network, InferenceTransUNet):
            return self._network
        return InferenceTransUNet(self._net, device=self.device)

    def _accepted(self, volume: Volume | npt.NDArray[Any]) -> Volume | npt.NDArray[Any]:
        """A `Volume` as it is, anything else as a checked (z, y, x) array."""
        return volume if isinstance(volume, Volume) else as_volume(volume).data

    def _sources(self, volume: Volume | npt.NDArray[Any]) -> list[SliceSource]:
        """The slices to label; and with orthogonal planes, those along the other axes."""
        card = self.card
        if not isinstance(volume, Volume):
            # Nothing says how a bare array lies, so it is taken to lie as the card wants it.
            volume, card = as_volume(volume), card.model_copy(update={"orientation": None})
        if self.pipeline == "paper":
            return [SliceSource.from_paper(volume, self._size).on(self.device)]
        return [
            SliceSource.from_card(volume, card, self._size, plane).on(self.device)
            for plane in PLANES[: 3 if self.orthogonal_planes else 1]
        ]

    def _run(
        self,
        sources: Sequence[SliceSource],
        order: Sequence[int],
        runner: BatchRunner,
        *,
        first_alone: bool,
        uncertainty: bool,
    ) -> Iterator[list[SlicePrediction]]:
        source = sources[0]
        inside = inside_of(source.resize) if uncertainty else None
        compute: Callable[[Sequence[int]], list[SlicePrediction]]
        if len(sources) > 1:
            compute = MultiplanarPredictions(
                sources,
                self.card.num_classes,
                runner,
                lambda source, indices: self._probabilities(source, indices, runner.cancelled),
                labels_dtype=self.labels_dtype,
                inside=inside,
            )
        else:
            cache = ConstantSliceCache()

            def compute(indices: Sequence[int]) -> list[SlicePrediction]:
                return cache.predictions(
                    indices,
                    source.stack(indices),
                    lambda stack, indices: self._classified(stack, indices, source, inside, runner.cancelled),
                )

        for _, predictions in runner.run(order, compute, first_alone=first_alone):
            yield predictions

    def _classified(
        self,
        stack: SliceStack,
        indices: Sequence[int],
        source: SliceSource,
        inside: Tensor | None,
        cancelled: Callable[[], bool],
    ) -> list[SlicePrediction]:
        """The labels of each image, and with `inside` how unsure they are."""
        logits = self._logits(stack, source, cancelled)
        labels = source.resize.labels(logits).cpu().numpy().astype(self.labels_dtype, copy=False)
        planes = [source.to_volume(plane) for plane in labels]
        uncertainties = [None] * len(planes) if inside is None else uncertainty_of(logits, inside)
        return list(map(SlicePrediction, indices, planes, uncertainties))

    def _probabilities(
        self, source: SliceSource, indices: Sequence[int], cancelled: Callable[[], bool]
    ) -> list[Probabilities]:
        """Of each class, on each slice as it lies in the volume: (classes, …)."""
        logits = source.resize.inverse(self._logits(source.stack(indices), source, cancelled))
        probabilities = logits.softmax(dim=1).half().cpu().numpy()
        return [np.stack([source.to_volume(plane) for plane in planes]) for planes in probabilities]

    @torch.inference_mode()
    def _logits(self, stack: SliceStack, source: SliceSource, cancelled: Callable[[], bool]) -> Tensor:
        """Scaled slices -> float32 logits (B, classes, H, W) on the device.

        With `mirror_tta`, the logarithm of the mean probabilities; `PredictionCancelled` once `cancelled` says so.
        """
        images = stack.images(source.resize)
        logits = (
            mean_over_mirrors(self._network, images, cancelled) if self.mirror_tta else self._network(images)
        )
        if not is_finite(logits):
            raise InputError(
                f"The network's output overflows in {self.precision_name}; choose precision 'float32'."
            )
        return logits


def _never() -> bool:
    return False


def _order(n: int, first: int | None, slices: Sequence[int] | None) -> Sequence[int]:
    if slices is None:
        return range(n) if first is None else outward(n, first)
    wanted = list(dict.fromkeys(whole_number(index, "The index of a slice") for index in slices))
    for index in (*wanted, *(() if first is None else (first,))):
        if not 0 <= index < n:
            raise InputError(f"There is no slice {index}; this volume's slices are 0 to {n - 1}.")
    return wanted if first is None else nearest_first(wanted, first)


def _own_ranges(checkpoint: Checkpoint, precision: str) -> ActivationRanges | None:
    """The activation ranges beside the checkpoint; unusable ones matter only to somebody who asks for 8 bits."""
    if precision not in ("auto", "int8"):
        return None
    try:
        return ranges_beside(checkpoint.path, checkpoint.sha256)
    except CheckpointError as error:
        if precision == "int8":
            raise
        _log.warning("8 bits are not used: %s", error)
        return None


def _orthogonal_planes(options: PredictorOptions, card: ModelCard) -> bool:
    """Whether slices are taken along all three axes: as was asked for, else as the card says."""
    if options.pipeline == "paper":
        return False
    if options.orthogonal_planes:
        check_three_planes(card)
    return card.planes == 3 if options.orthogonal_planes is None else options.orthogonal_planes
