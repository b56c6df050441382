"""From a volume to labels on its grid: the stateful side of prediction, beside the pure network."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import torch

from napari_transunet.checkpoints.card import ModelCard, default_card
from napari_transunet.checkpoints.loading import Checkpoint
from napari_transunet.checkpoints.quantization import ActivationRanges, ranges_beside
from napari_transunet.errors import CheckpointError, InputError, TransUNetError
from napari_transunet.files import available_memory
from napari_transunet.inference.backends import (
    Backend,
    BackendChoice,
    make_network,
    resolve_backend,
    resolve_dtype,
)
from napari_transunet.inference.devices import (
    free_cached_memory,
    is_out_of_memory,
    resolve_device,
)
from napari_transunet.inference.slice_order import nearest_first, outward
from napari_transunet.inference.slices import PLANES, SliceSource, SliceStack, as_volume, orientation_for
from napari_transunet.inference.tta import check_three_planes, mean_over_mirrors
from napari_transunet.inference.uncertainty import (
    SliceUncertainty,
    inside_of,
    uncertainty_of,
    uncertainty_of_shares,
)
from napari_transunet.model.checks import is_finite
from napari_transunet.model.inference import InferenceTransUNet
from napari_transunet.model.transunet import TransUNet
from napari_transunet.volumes.volume import Volume

if TYPE_CHECKING:
    from torch import Tensor

Pipeline = Literal["card", "paper"]
Labels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_log = logging.getLogger(__name__)

_BATCH_PIXELS = {"cpu": 4 * 224 * 224, "mps": 8 * 224 * 224, "cuda": 32 * 224 * 224}
"""Pixels of a batch by default. On the CPU more gains nothing and would only be longer to cancel."""

_OPENVINO_BATCH_PIXELS = 2 * 224 * 224
"""The same for OpenVINO, which gains little beyond and fills a first slice up to a whole batch."""

_KNOWN_PLANES = 8
"""Different slices of one value whose labels are kept: air, and whatever else a volume is padded with."""


_MEMORY_SHARE = 0.8
"""Of the free memory, that the probabilities of several planes, or attention maps, may take."""

_ONE_LOOK = "choose the pipeline 'card' for more looks"

_Result = TypeVar("_Result")


class OutOfMemoryError(InputError):
    """The memory cannot hold even a single slice, or what its tokens attend to."""


class PredictionCancelled(TransUNetError):
    """`Predictor.predict` was asked to stop."""


@dataclass(frozen=True, slots=True, eq=False)
class SlicePrediction:
    """Labels of one slice: its index along the volume's `slice_axis`, and the plane of labels across that axis.

    `uncertainty` is there where it was asked for.
    """

    index: int
    plane: Labels
    uncertainty: SliceUncertainty | None = None


class Predictor:
    """Segments volumes with one network. It keeps a copy of the network that is made for prediction.

    Parameters
    ----------
    model
        What `load_checkpoint` returned, or a bare `TransUNet` (then the published CT window, or `card`).
    device
        "auto" (CUDA, then MPS, then the CPU), "cpu", "cuda", "cuda:N" or "mps".
    precision
        "auto" (8 bits where the checkpoint's activation ranges say that this gives float32's labels, else bfloat16
        where it is fast, else float32; always float32 with the paper's pipeline), "float32", "bfloat16", "float16"
        on a GPU, or "int8" with OpenVINO.
    pipeline
        "card" prepares slices as the model card says. "paper" is the published test procedure (Chen et al.,
        arXiv 2102.04306): CT window −125..275 HU, cubic-spline zoom, argmax, nearest zoom back, slices as stored.
    batch_size
        Slices a batch; by default what suits the device. It is halved as often as memory runs out.
    card
        Takes the place of the checkpoint's card.
    planes
        1: slices along z alone. 3: slices along all three axes, whose probabilities are averaged. By default as the
        card says.
    flips
        Average the probabilities of each slice with those of its three mirror images, which takes four times as long.
    backend
        What runs the network: "torch", "openvino" (the CPU alone), or "auto": OpenVINO on the CPU where it is
        installed, but for float32.
    ranges
        Activation ranges for 8 bits; by default those that lie beside the checkpoint's file.

    Attributes
    ----------
    device, precision, backend : `torch.device`, `torch.dtype` and name in use
    pipeline, batch_size : as given or chosen
    card : the model card in use
    planes, flips : how each slice is looked at
    checkpoint : the checkpoint; None for a bare network
    labels_dtype : uint8, or uint16 above 255 classes

    Raises
    ------
    InputError
        A device, precision or pipeline that does not exist or is not here, a batch size below 1, a card that
        describes another network, or looks that this card or pipeline does not allow.
    """

    def __init__(
        self,
        model: Checkpoint | TransUNet,
        *,
        device: str | torch.device = "auto",
        precision: str | torch.dtype = "auto",
        pipeline: Pipeline = "card",
        batch_size: int | None = None,
        card: ModelCard | None = None,
        planes: int | None = None,
        flips: bool = False,
        backend: BackendChoice = "auto",
        ranges: ActivationRanges | None = None,
    ) -> None:
        if pipeline not in get_args(Pipeline):
            raise InputError(f"Unknown pipeline {pipeline!r}; choose one of {', '.join(get_args(Pipeline))}.")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"The batch size must be at least 1, not {batch_size}.")
        self.checkpoint = model if isinstance(model, Checkpoint) else None
        net = model.model if isinstance(model, Checkpoint) else model
        if not isinstance(net, TransUNet):
            raise InputError(
                f"A predictor needs what load_checkpoint returns, or a TransUNet, not {type(net).__name__}."
            )
        own_card = self.checkpoint.card if self.checkpoint else default_card(net)
        self.card = own_card if card is None else card
        _check_card(self.card, net)
        self.pipeline: Pipeline = pipeline
        self.planes = _planes(planes, self.card, pipeline)
        if flips and pipeline == "paper":
            raise InputError(f"The published procedure mirrors no slices; {_ONE_LOOK}.")
        self.flips = flips
        self.device = resolve_device(device)
        self.backend = resolve_backend(backend, self.device)
        if pipeline == "paper" and str(precision) == "auto":
            precision = "float32"
        if ranges is None and self.backend == "openvino" and self.checkpoint is not None:
            ranges = _own_ranges(self.checkpoint, precision)
        self.precision = resolve_dtype(precision, self.device, self.backend, ranges, net.img_size)
        if backend == "auto" and self.precision == torch.float32:
            self.backend = "torch"  # nearer to what was trained, and ready sooner; OpenVINO gains little here
        self.batch_size = batch_size or _default_batch(self.device, self.backend, net.img_size)
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
        done = 0
        for batch in self.iter_batches(volume, cancelled=cancelled, uncertainty=unsure is not None):
            for item in batch:
                along[item.index] = item.plane
                if unsure is not None and item.uncertainty is not None:
                    unsure(item.index, item.uncertainty)
            done += len(batch)
            if progress is not None:
                progress(done, len(along))
        if done < len(along):
            raise PredictionCancelled(f"Cancelled after {done} of {len(along)} slices.")
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
    ) -> Iterator[list[SlicePrediction]]:
        """The slices of each batch as it is done; ends early once `cancelled` says so.

        Parameters
        ----------
        volume : a `Volume`, or a bare (z, y, x) array that lies as the model card wants it
        first : index along `slice_axis` of the slice to begin with, in a batch of its own so that it is there at
            once; the others follow outward from it
        slices : only these, in this order unless `first` is given
        cancelled : asked before every batch
        uncertainty : tell of each slice how unsure the network is; the labels are the same

        Raises
        ------
        InputError
            As `predict`; also for an index that the volume does not have. Arguments are checked at once, before
            the first batch is asked for.
        """
        sources = self._sources(volume)
        order = _order(len(sources[0]), first, slices)
        return self._run(
            sources, order, alone=first is not None, cancelled=cancelled, uncertainty=uncertainty
        )

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
        if size > _MEMORY_SHARE * available_memory():
            raise OutOfMemoryError(message)

        def maps_of(indices: Sequence[int]) -> list[Tensor]:
            return [maps[0].float().cpu() for maps in self._in_torch.attention_maps(source.images(indices))]

        found = self._if_it_fits(maps_of, [wanted])
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
        """The slices to label; and where other planes are looked at too, theirs."""
        card = self.card
        if not isinstance(volume, Volume):
            # Nothing says how a bare array lies, so it is taken to lie as the card wants it.
            volume, card = as_volume(volume), card.model_copy(update={"orientation": None})
        if self.pipeline == "paper":
            return [SliceSource.from_paper(volume, self._size).on(self.device)]
        return [
            SliceSource.from_card(volume, card, self._size, plane).on(self.device)
            for plane in PLANES[: self.planes]
        ]

    def _run(
        self,
        sources: Sequence[SliceSource],
        order: Sequence[int],
        *,
        alone: bool,
        cancelled: Callable[[], bool] | None,
        uncertainty: bool,
    ) -> Iterator[list[SlicePrediction]]:
        source, others = sources[0], sources[1:]
        inside = inside_of(source.resize) if uncertainty else None
        votes: npt.NDArray[np.float16] | None = None
        if others:
            votes = self._votes(others, cancelled)
            if cancelled is not None and cancelled():
                return
        known: dict[_Key, _Answer] = {}

        def answers(indices: Sequence[int]) -> list[_Answer]:
            if votes is None:
                return self._classified(source, indices, known, inside, cancelled)
            along = np.moveaxis(votes, source.orientation.slice_axis + 1, 1)
            shares = self._probabilities(source, cancelled, indices)
            return [
                self._voted(along[:, index].astype(np.float32) + share, source, inside)
                for index, share in zip(indices, shares, strict=True)
            ]

        for indices, found in self._batches(order, answers, alone=alone, cancelled=cancelled):
            yield [SlicePrediction(index, *answer) for index, answer in zip(indices, found, strict=True)]

    def _voted(self, votes: npt.NDArray[np.float32], source: SliceSource, inside: Tensor | None) -> _Answer:
        """What the summed-up probabilities (classes, …) of several planes say of one slice of the volume."""
        labels = votes.argmax(0).astype(self.labels_dtype)
        if inside is None:
            return labels, None
        shares = np.stack([source.from_volume(plane) for plane in votes / self.planes])
        on_grid = source.resize.forward(torch.from_numpy(shares).to(self.device))[None]
        return labels, uncertainty_of_shares(on_grid, inside)[0]

    def _votes(
        self, sources: Sequence[SliceSource], cancelled: Callable[[], bool] | None
    ) -> npt.NDArray[np.float16]:
        """Probabilities (classes, *the volume's shape) of slices along other axes, summed up.

        Incomplete once `cancelled` says so.
        """
        shape = (self.card.num_classes, *sources[0].orientation.invert(sources[0].data).shape)
        if 2 * math.prod(shape) > _MEMORY_SHARE * available_memory():
            raise InputError(
                f"Looking at three planes takes {2 * math.prod(shape) / 1e9:.1f} GB for this volume, more than is "
                "free; close other programs, crop the volume, or look at one plane."
            )
        votes = np.zeros(shape, np.float16)
        for source in sources:
            along = np.moveaxis(votes, source.orientation.slice_axis + 1, 1)
            for indices, shares in self._batches(
                range(len(source)),
                partial(self._probabilities, source, cancelled),
                alone=False,
                cancelled=cancelled,
            ):
                for index, share in zip(indices, shares, strict=True):
                    along[:, index] += share
        return votes

    def _batches(
        self,
        order: Sequence[int],
        compute: Callable[[Sequence[int]], list[_Result]],
        *,
        alone: bool,
        cancelled: Callable[[], bool] | None,
    ) -> Iterator[tuple[Sequence[int], list[_Result]]]:
        """What `compute` makes of the slices, a batch at a time; batches get smaller where memory runs out."""
        limit, done = self.batch_size, 0
        while done < len(order):
            if cancelled is not None and cancelled():
                return
            indices = order[done : done + (1 if alone and done == 0 else limit)]
            try:
                results = self._if_it_fits(compute, indices)
            except PredictionCancelled:
                return
            if results is None:
                limit = self._halved(len(indices))
                continue
            yield indices, results
            done += len(indices)

    def _if_it_fits(
        self, compute: Callable[[Sequence[int]], list[_Result]], indices: Sequence[int]
    ) -> list[_Result] | None:
        """What `compute` makes of these slices; None where memory ran out."""
        try:
            return compute(indices)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # The traceback held the tensors until here.
        free_cached_memory(self.device)
        return None

    def _halved(self, size: int) -> int:
        if size == 1:
            raise OutOfMemoryError(
                f"The memory of {self.device} does not hold a single slice at {self._size[0]}×{self._size[1]}; "
                "choose another device, a smaller variant, or a smaller image size."
            )
        _log.warning(
            "Out of memory on %s with %d slices a batch; going on with %d.", self.device, size, size // 2
        )
        return size // 2

    def _classified(
        self,
        source: SliceSource,
        indices: Sequence[int],
        known: dict[_Key, _Answer],
        inside: Tensor | None,
        cancelled: Callable[[], bool] | None,
    ) -> list[_Answer]:
        """Planes of labels, in the volume's orientation, each with its uncertainty where `inside` is given.

        A slice of one value (air, once clipped to the window) is the same input wherever it lies, so its labels
        are computed once a run and kept in `known`.
        """
        stack = source.stack(indices)
        keys = [
            index if values is None else values
            for index, values in zip(indices, stack.constants(), strict=True)
        ]
        fresh = {key: position for position, key in enumerate(keys) if key not in known}
        answers = dict(known)
        if fresh:
            computed = self._answers(stack.pick(list(fresh.values())), source, inside, cancelled)
            answers.update(zip(fresh, computed, strict=True))
        for key in fresh:
            if isinstance(key, tuple) and len(known) < _KNOWN_PLANES:
                known[key] = answers[key]
        # Copies, so that writing into one empty slice does not write into the others.
        return [
            (source.to_volume(labels.copy() if isinstance(key, tuple) else labels), uncertainty)
            for key, (labels, uncertainty) in ((key, answers[key]) for key in keys)
        ]

    def _answers(
        self,
        stack: SliceStack,
        source: SliceSource,
        inside: Tensor | None,
        cancelled: Callable[[], bool] | None,
    ) -> list[_Answer]:
        """Of each image, labels (h, w) and how unsure they are."""
        logits = self._logits(stack, source, cancelled)
        labels = source.resize.labels(logits).cpu().numpy().astype(self.labels_dtype, copy=False)
        if inside is None:
            return [(plane, None) for plane in labels]
        return list(zip(labels, uncertainty_of(logits, inside), strict=True))

    def _probabilities(
        self, source: SliceSource, cancelled: Callable[[], bool] | None, indices: Sequence[int]
    ) -> list[npt.NDArray[np.float16]]:
        """Of each class, on each slice as it lies in the volume: (classes, …)."""
        logits = source.resize.inverse(self._logits(source.stack(indices), source, cancelled))
        shares = logits.softmax(dim=1).half().cpu().numpy()
        return [np.stack([source.to_volume(plane) for plane in share]) for share in shares]

    @torch.inference_mode()
    def _logits(
        self, stack: SliceStack, source: SliceSource, cancelled: Callable[[], bool] | None = None
    ) -> Tensor:
        """Scaled slices on the CPU -> float32 logits (B, classes, H, W) on the device.

        With `flips`, the logarithm of the mean probabilities; `PredictionCancelled` once `cancelled` says so.
        """
        images = stack.images(source.resize)
        logits = mean_over_mirrors(self._network, images, cancelled) if self.flips else self._network(images)
        if logits is None:
            raise PredictionCancelled("Cancelled between two looks at a batch.")
        if not is_finite(logits):
            raise InputError(
                f"The network's output overflows in {str(self.precision).removeprefix('torch.')}; "
                "choose precision 'float32'."
            )
        return logits


_Key = int | tuple[float, ...]
_Answer = tuple[Labels, SliceUncertainty | None]


def _order(n: int, first: int | None, slices: Sequence[int] | None) -> Sequence[int]:
    if slices is None:
        return range(n) if first is None else outward(n, first)
    wanted = list(dict.fromkeys(int(index) for index in slices))
    for index in (*wanted, *(() if first is None else (first,))):
        if not 0 <= index < n:
            raise InputError(f"There is no slice {index}; this volume's slices are 0 to {n - 1}.")
    return wanted if first is None else nearest_first(wanted, first)


def _own_ranges(checkpoint: Checkpoint, precision: str | torch.dtype) -> ActivationRanges | None:
    """The activation ranges beside the checkpoint; unusable ones matter only to somebody who asks for 8 bits."""
    wanted = str(precision).removeprefix("torch.")
    if wanted not in ("auto", "int8"):
        return None
    try:
        return ranges_beside(checkpoint.path, checkpoint.sha256)
    except CheckpointError as error:
        if wanted == "int8":
            raise
        _log.warning("8 bits are not used: %s", error)
        return None


def _default_batch(device: torch.device, backend: Backend, size: tuple[int, int]) -> int:
    pixels = _OPENVINO_BATCH_PIXELS if backend == "openvino" else _BATCH_PIXELS[device.type]
    return max(1, pixels // (size[0] * size[1]))


def _planes(planes: int | None, card: ModelCard, pipeline: Pipeline) -> int:
    """How many axes slices are taken along: what was asked for, else what the card says."""
    if planes not in (None, 1, 3):
        raise InputError(f"Slices are taken along 1 or 3 axes, not {planes!r}.")
    if pipeline == "paper":
        if planes == 3:
            raise InputError(f"The published procedure looks along one axis alone; {_ONE_LOOK}.")
        return 1
    if planes == 3:
        check_three_planes(card)
    return card.planes if planes is None else planes


def _check_card(card: ModelCard, net: TransUNet) -> None:
    """Refuse a card that describes another network."""
    facts = {
        "variant": (card.variant, net.variant.name),
        "num_classes": (card.num_classes, net.num_classes),
        "img_size": (tuple(card.img_size), tuple(net.img_size)),
        "n_skip": (net.n_skip if card.n_skip is None else card.n_skip, net.n_skip),
    }
    wrong = [
        f"{name} {told!r} (the network's is {own!r})" for name, (told, own) in facts.items() if told != own
    ]
    if wrong:
        raise InputError(f"The model card describes another network: {', '.join(wrong)}.")
