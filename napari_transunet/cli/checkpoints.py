"""The commands `inspect` and `variants`."""

from dataclasses import asdict

import typer
from rich.table import Table

from napari_transunet.cli.options import CheckpointArgument, JsonOption, WeightsOption
from napari_transunet.cli.printing import print_facts, print_json, print_table
from napari_transunet.cli.reporting import BAD_INPUT, one_line, say


def inspect(
    checkpoint: CheckpointArgument,
    weights: WeightsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a checkpoint contains, without building the network."""
    from napari_transunet.checkpoints.info import inspect_checkpoint
    from napari_transunet.checkpoints.registry import resolve_checkpoint

    report = inspect_checkpoint(resolve_checkpoint(checkpoint), weights=weights)
    facts = report.to_dict()
    if as_json:
        print_json(facts)
    else:
        shown = {key: value for key, value in facts.items() if key not in ("card", "problems", "notes", "ok")}
        if report.card is not None:
            # What the tensors tell is above; the rest is the card's.
            shown |= {key: value for key, value in facts["card"].items() if key not in shown}
            shown["labels"] = ", ".join(f"{value} {name}" for value, name in report.card.label_names.items())
            if report.card.lineage:
                shown["lineage"] = " → ".join(one.sentence() for one in report.card.lineage)
        print_facts(shown)
        for note in report.notes:
            typer.echo(one_line(f"Note: {note}"))
        for problem in report.problems:
            typer.echo(one_line(f"Problem: {problem}"))
    if not report.ok:
        say(f"Error: {checkpoint} cannot be used: {'; '.join(report.problems[:3])}")
        raise typer.Exit(BAD_INPUT)


def variants(as_json: JsonOption = False) -> None:
    """List the variants of TransUNet."""
    from napari_transunet.model.variants import VARIANTS

    entries = [asdict(variant) for variant in VARIANTS.values()]
    if as_json:
        print_json(entries)
        return
    table = Table("Variant", "Patch", "Hidden", "MLP", "Heads", "Blocks", "CNN")
    for entry in entries:
        sizes = (str(entry[key]) for key in ("patch", "hidden", "mlp", "heads", "blocks"))
        table.add_row(entry["name"], *sizes, "ResNet-50" if entry["hybrid"] else "–")
    print_table(table)
