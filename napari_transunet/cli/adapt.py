"""The command `adapt`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_transunet.cli.cluster import ClusterOptions, cluster, cluster_options
from napari_transunet.cli.options import (
    JsonOption,
    OverwriteOption,
    check_target,
    grouped,
    listed,
    option,
    read,
)
from napari_transunet.cli.printing import print_facts, print_json, progress_bar
from napari_transunet.cli.reporting import INTERRUPTED, interruptible, say
from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.checkpoints.lineage import DiceChange
    from napari_transunet.checkpoints.loading import Checkpoint
    from napari_transunet.training.corrections import Correction
    from napari_transunet.training.fine_tuning import AdaptationProgress

_NONE = "none"


@grouped(on=cluster_options)
def adapt(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A checkpoint's file or name, or “none” for a new network with only the organs of --new-organ.",
        ),
    ],
    pairs: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCAN LABELS...", help="A scan and its corrected labels; several pairs are possible."
        ),
    ],
    *,
    out: Annotated[Path, option("OUT", "The .safetensors file to write.", "--output", "-o")],
    slices: Annotated[
        list[str] | None,
        option(
            "5,21,30-38",
            "The correct slices, from 0, along the network's slice axis; for several pairs, repeat it once per "
            "pair, in their order. Default: all.",
        ),
    ] = None,
    organs: Annotated[
        str | None, option("NAME,…", "The organs that are correct in these slices. Default: all.")
    ] = None,
    new_organ: Annotated[
        list[str] | None, option("VALUE=NAME", "An organ that the checkpoint lacks; can be repeated.")
    ] = None,
    drop: Annotated[str | None, option("NAME,…", "Organs of the checkpoint to forget.")] = None,
    earlier: Annotated[
        int, option("N", "The last N pairs were learnt from earlier and are only replayed.", min=0)
    ] = 0,
    modality: Annotated[
        str | None, option("CT|MR|…", "For “none”, if the scan does not state its modality; as in DICOM.")
    ] = None,
    device: Annotated[str, option("auto|cpu|cuda|cuda:N|mps")] = "auto",
    steps: Annotated[
        int | None,
        option(
            "N", "Training steps. Default: as many as fit in 105 s, up to 160 (120 with a new organ).", min=1
        ),
    ] = None,
    seed: Annotated[int, option("N", min=0)] = 0,
    on: ClusterOptions | None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let a checkpoint learn from corrected slices, and report the gain on held-out slices.

    Organs are matched by the names in a label file, or by number if it has no names.

    OUT is written if the held-out slices improve, or if there is only one slice and so none to hold out. OUT's name
    with .replay.npz is a file with some of the slices that it learnt from; they are replayed the next time, so that
    less is forgotten.
    """
    from napari_transunet.checkpoints.loading import load_checkpoint
    from napari_transunet.checkpoints.registry import resolve_checkpoint
    from napari_transunet.checkpoints.saving import SUFFIX, save_checkpoint
    from napari_transunet.training.adaptation import pack_for_child
    from napari_transunet.training.fine_tuning import AdaptationCancelled
    from napari_transunet.training.first_network import first_network
    from napari_transunet.training.replay import replay_path

    if on is not None and device != "auto":
        raise InputError("Workers choose their device themselves; leave out --device or --scheduler.")
    if out.suffix != SUFFIX:
        raise InputError(f"Checkpoints are written as {SUFFIX} files; give {out.name} that suffix.")
    check_target(out, replay_path(out), overwrite=overwrite)
    if len(pairs) % 2:
        raise InputError("Give scans and labels in pairs: SCAN LABELS SCAN LABELS ….")
    if 2 * earlier >= len(pairs):
        raise InputError(f"--earlier {earlier} leaves no pair to learn from; there are {len(pairs) // 2}.")
    names = _new_organs(new_organ or ())
    first = checkpoint == _NONE
    if first:
        start = first_network(read(pairs[0]), names, modality=modality)
    else:
        start = load_checkpoint(resolve_checkpoint(checkpoint))
    added = {} if first else names
    known = _corrections(pairs, slices or (), listed(organs), start.card, names)
    corrections, before = known[: len(known) - earlier], known[len(known) - earlier :]
    if first and on is not None:  # it is begun anew there
        volume = replace(corrections[0].volume, modality=start.card.modality or "")
        corrections[0] = replace(corrections[0], volume=volume)
    parent, wanted = (None, names) if first and on is not None else (start, added)
    with _adapting(on, device) as adapted, interruptible() as cancelled, progress_bar() as bar:
        task = bar.add_task("learning", total=100)

        def told(progress: AdaptationProgress) -> None:
            dice = "" if progress.dice is None else f", held-out Dice {progress.dice:.3f}"
            bar.update(
                task, completed=round(100 * progress.done), description=f"loss {progress.loss:.3f}{dice}"
            )

        try:
            better = adapted(
                parent,
                corrections,
                progress=told,
                cancelled=cancelled,
                new_organs=wanted,
                drop=listed(drop) or (),
                earlier=before,
                steps=steps,
                seed=seed,
            )
        except AdaptationCancelled:
            raise typer.Exit(INTERRUPTED) from None
    story = better.card.lineage[-1]
    if story.mean_dice is not None and not story.better:
        raise InputError(
            f"Learning did not help: mean Dice on held-out slices stayed at {story.mean_dice[0]:.3f}, so nothing was "
            "written; correct more slices, or different ones."
        )
    pack = pack_for_child(
        start.path, start.card, known, better.card, new_organs=added, drop=listed(drop) or ()
    )
    save_checkpoint(out, better, better.card.updated(name=out.stem), overwrite=overwrite)
    pack.write(replay_path(out), overwrite=overwrite)
    say(f"{replay_path(out)} contains slices of these scans; keep it where the scans may be kept.")
    facts = {
        "written": str(out),
        "replay": str(replay_path(out)),
        "steps": story.steps + story.further_steps,
        "seconds": story.seconds,
        "held_out_dice": {name: one.model_dump() for name, one in story.dice.items()},
        "retained_dice": {name: one.model_dump() for name, one in story.retained.items()},
    }
    if as_json:
        print_json(facts | {"lineage": story.model_dump(mode="json")})
        return
    print_facts(
        facts
        | {
            "held_out_dice": _in_words(story.dice) or "no slice was held out",
            "retained_dice": _in_words(story.retained) or "not known without a replay pack",
        }
    )


def _in_words(dice: Mapping[str, DiceChange]) -> str:
    return ", ".join(f"{name} {one.before:.3f} → {one.after:.3f}" for name, one in dice.items())


@contextmanager
def _adapting(on: ClusterOptions | None, device: str) -> Iterator[Callable[..., Checkpoint]]:
    """What learns: this process, or a worker."""
    if on is None:
        from napari_transunet.training.adaptation import adapt as adapt_here

        yield partial(adapt_here, device=device)
    else:
        with cluster(on) as client:
            yield partial(_adapt_there, client, on.retries)


def _adapt_there(client: Client, retries: int, *given: Any, **wishes: Any) -> Checkpoint:
    """Let a worker learn, and another one where its connection is lost."""
    from napari_transunet.cluster.adapting import adapt_on_cluster
    from napari_transunet.cluster.address import ConnectionLost

    while True:
        if not client.nthreads():
            address = client.scheduler_info()["address"]
            say(f"No worker is at {address}; waiting. `napari-transunet worker {address}` starts one.")
            client.wait_for_workers(1)
        try:
            return adapt_on_cluster(client, *given, **wishes)
        except ConnectionLost as error:
            if not retries or client.status != "running":
                raise
            retries -= 1
            say(f"{error} Starting to learn again.")


def _corrections(
    pairs: Sequence[Path],
    slices: Sequence[str],
    organs: Sequence[str] | None,
    card: ModelCard,
    new: Mapping[int, str],
) -> list[Correction]:
    """What is vouched for, of every pair of files; `new` are the organs that the card lacks, by value."""
    from napari_transunet.inference.slices import orientation_for
    from napari_transunet.training.corrections import Correction

    if slices and len(slices) != len(pairs) // 2:
        raise InputError(
            f"--slices was given {len(slices)} times for {len(pairs) // 2} pairs; give it once per pair, or not at all."
        )
    corrections = []
    for at, (scan, labels) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        volume, drawn = read(scan), read(labels, scan=scan)
        count = volume.data.shape[orientation_for(volume, card).slice_axis]
        chosen = _slices(slices[at], count) if slices else None
        correction = Correction.of_file(volume, drawn, chosen, organs, card, new, noted=say)
        if not slices:
            say(
                f"{labels}: all {len(correction.slices)} slices are taken as correct; --slices selects some of them."
            )
        corrections.append(correction)
    return corrections


def _slices(text: str, count: int) -> list[int]:
    """`5,21,30-38` as numbers."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise InputError(f"--slices takes numbers and ranges, such as 5,21,30-38; not {text!r}.")
        if last >= count:
            raise InputError(f"There is no slice {last}; slices are numbered 0 to {count - 1}.")
        found.update(range(first, last + 1))
    return sorted(found)


def _new_organs(texts: Sequence[str]) -> dict[int, str]:
    """`9=bladder` as value and name."""
    found = {}
    for text in texts:
        value, _, name = text.partition("=")
        if not re.fullmatch(r"\s*[0-9]{1,5}\s*", value) or not name.strip():
            raise InputError(f"--new-organ takes a label value and a name, such as 9=bladder; not {text!r}.")
        found[int(value)] = name.strip()
    return found
