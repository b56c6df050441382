"""Sentences of the dock, written for a radiologist: numbers with units, organs by name, no jargon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from napari_transunet.errors import USERS_ERRORS, TransUNetError, sentence_of

if TYPE_CHECKING:
    from napari_transunet.viewer.segment.run_messages import RunOutcome, RunProgress

_MANY = 16  # organs that a sentence names


def duration(seconds: float) -> str:
    """A time as people say it: "0.4 s", "11 s", "2 min 5 s", "1 h 10 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def countdown(seconds: float) -> str:
    """A remaining time, in whole seconds and never "0 s"."""
    return duration(max(10.0, seconds)) if seconds > 9.5 else f"{max(1, round(seconds))} s"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with thousands separators and its noun: "1 slice", "1,204 voxels"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def millilitres(volume: float) -> str:
    """A volume in mL with three figures that matter: "1,412 mL", "18.7 mL", "0.42 mL"."""
    if volume >= 100:
        return f"{volume:,.0f} mL"
    return f"{volume:.1f} mL" if volume >= 1 else f"{volume:.2f} mL"


def organ(name: str, *, first: bool = False) -> str:
    """An organ's name in running text: underscores gone, capital only at the start of a sentence.

    Abbreviations keep their capitals ("IVC", "Kidney L" -> "kidney L").
    """
    words = name.replace("_", " ").split()
    if words and words[0][1:].islower():
        words[0] = words[0].lower()
    text = " ".join(words)
    return text[:1].upper() + text[1:] if first else text


def organs(names: Sequence[str], *, limit: int = _MANY) -> str:
    """Several organs in running text: "Liver, spleen and 3 more"."""
    shown = [organ(name, first=at == 0) for at, name in enumerate(names[:limit])]
    left = len(names) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def organ_volumes(volumes: Mapping[str, float]) -> str:
    """Organs with their volumes in mL, in the order given: "Liver 1,412 mL, spleen 187 mL"."""
    parts = [
        f"{organ(name, first=at == 0)} {millilitres(volume)}"
        for at, (name, volume) in enumerate(list(volumes.items())[:_MANY])
    ]
    left = len(volumes) - len(parts)
    return ", ".join(parts) + (f" and {left} more" if left else "")


def place(device: str) -> str:
    """Where the network ran: "on the processor", "on the GPU"."""
    return "on the processor" if device == "cpu" else f"on the {device_name(device)}"


def outcome_detail(outcome: RunOutcome) -> str:
    """How a run was computed, for those who want to know; empty where none was recorded."""
    record = outcome.record
    if record is None:
        return ""
    return f"{record.checkpoint}, {record.variant}, on {device_name(record.device)} with {record.precision}"


def device_name(device: str) -> str:
    """A torch device for people: "cpu" -> "CPU", "cuda:1" -> "GPU 1", "mps" -> "Apple GPU"."""
    kind, _, number = device.partition(":")
    name = {"cpu": "CPU", "cuda": "GPU", "mps": "Apple GPU"}.get(kind, device)
    return f"{name} {number}" if kind == "cuda" and number not in {"", "0"} else name


def value_text(value: float) -> str:
    """An image's value: "1,024", "0.3512"."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:.4g}"


def size_and_spacing(shape: Sequence[int], spacing: Sequence[float], modality: str | None) -> str:
    """The line under the volume: columns × rows × slices, spacing in the same order, modality."""
    size = " × ".join(str(n) for n in reversed(shape))
    steps = " × ".join(_millimetres(step) for step in reversed(spacing))
    return facts(size, f"{steps} mm", modality or "modality unknown")


def facts(*parts: str) -> str:
    """Facts in one line that may only be broken between them."""
    return " · ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)


def _millimetres(step: float) -> str:
    if step < 0.1:  # of a microscope
        return f"{step:.2g}"
    text = f"{step:.2f}"
    return text.rstrip("0").rstrip(".") if text.endswith("00") or step >= 2 else text


def error_sentence(error: BaseException, what: str = "The segmentation") -> str:
    """What to tell a person about an error of what was going on; the traceback belongs in the log."""
    if type(error).__name__ == "OutOfMemoryError" and not isinstance(error, TransUNetError):
        return (
            "The GPU ran out of memory even with the smallest batch; close other programs that use it, "
            "or choose CPU as the device."
        )
    if isinstance(error, USERS_ERRORS):
        return sentence_of(error, "close other volumes or programs and try again")
    text = " ".join(str(error).split())
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{what} stopped because of an unexpected error ({reason[:200]}); the log has the details."


def progress_sentence(progress: RunProgress) -> str:
    """What the run is doing now."""
    if progress.stage == "stopping":
        return "Stopping; the slices that are done stay."
    if progress.stage == "loading":
        first = "" if progress.into else "; the slice in view comes as soon as it is ready"
        return f"Preparing the network …{first}."
    if progress.into and progress.done == progress.total:
        return f"All slices are written; making the coarser resolutions of {progress.into}."
    if progress.into:
        return f"Segmenting from the first slice on, into {progress.into}; its labels are shown, but cannot be painted."
    if progress.total == 1:
        return f"Segmenting slice {progress.number}."
    on = f" on the {progress.on}" if progress.on else ""
    return f"Segmenting outward from slice {progress.number}{on}."


def outcome_sentence(outcome: RunOutcome, names: Mapping[int, str]) -> str:
    """How a run ended: what was done, how long it took, and what was found."""
    if outcome.kind == "failed" and outcome.error is not None:
        kept = f" {count(outcome.done, 'slice')} that were done stay." if outcome.done > 1 else ""
        return error_sentence(outcome.error) + kept
    if outcome.kind == "cancelled":
        because = f" because {outcome.reason}" if outcome.reason else ""
        if not outcome.done:
            return f"Stopped before the first slice{because}."
        stay = "" if outcome.reason else "; the labels that are there can be edited"
        return f"Stopped after {outcome.done:,} of {count(outcome.total, 'slice')}{because}{stay}."
    record = outcome.record
    where = f" {place(record.device)}" if record is not None else ""
    found = {names.get(value, f"label {value}"): volume for value, volume in outcome.volumes.items()}
    if outcome.only_this_slice:
        what = organs(list(found)) if found else "No organ was found in it"
        return f"Slice {outcome.numbers.number(outcome.first)} in {duration(outcome.seconds)}{where}. {what}."
    what = organ_volumes(found) if found else "No organ was found"
    part = "" if outcome.whole else "In this part of the volume alone: "
    what = what if outcome.whole or found else "No organ was found in them"
    missing = [name for value, name in names.items() if value and value not in outcome.volumes]
    absent = f" Not found: {organs(missing)}." if found and missing and outcome.whole else ""
    return (
        f"{count(outcome.done, 'slice')} in {duration(outcome.seconds)}{where}. "
        f"{part if found else ''}{what}.{absent}"
    )


def edits_sentence(edited: int, any_label: bool) -> str:
    """What a person's edits come to, also those from before the last run; empty where there are none."""
    if not edited:
        return ""
    if not any_label:
        return "All labels have been removed since."
    return f"{count(edited, 'voxel')} edited in all."


def conflict_sentence(conflicts: Mapping[int, int], number: Callable[[int], int] = int) -> str:
    """Where a new run would have changed what a person edited; empty where it would not. `number` names a slice."""
    if not conflicts:
        return ""
    slices = list(conflicts)
    where = f"slice {number(slices[0])}" if len(slices) == 1 else count(len(slices), "slice")
    voxels = sum(conflicts.values())
    kept = (
        f"Your {voxels:,} edited voxels ({where}) were kept"
        if voxels != 1
        else f"Your edited voxel ({where}) was kept"
    )
    return f"{kept}; the network would have labelled {'them' if voxels != 1 else 'it'} differently."


def across_sentence(run_axis: int, review_axis: int) -> str:
    """Where a run's uncertainty is found if its slices lie across those that are reviewed; empty where they do not."""
    if run_axis == review_axis:
        return ""
    return (
        "Its slices run along another axis than the reviewed ones, so its uncertainty is in the map “Uncertainty”, "
        "but not in the strip."
    )


def restored_sentence(done: int, total: int) -> str:
    """What is said of labels that were restored; `done` of `total` slices where the run that made them was stopped."""
    return f"Restored: {done} of {total} slices are segmented." if done < total else "Restored."


def reopened_sentence(slices: Sequence[int], number: Callable[[int], int] = int) -> str:
    """Which reviewed slices were changed; empty where there are none. `number` names a slice."""
    if not slices:
        return ""
    if len(slices) == 1:
        return f"Slice {number(slices[0])} had been reviewed and was changed; look at it again."
    return f"{count(len(slices), 'slice')} that had been reviewed were changed; look at them again."
