"""The commands under `sessions`: labels that the window saved while somebody worked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_transunet.cli.options import OverwriteOption
from napari_transunet.cli.printing import print_json, print_table
from napari_transunet.cli.reporting import one_line
from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from napari_transunet.annotation.session_store import SessionInfo, SessionStore

app = typer.Typer(help="List, export, import and delete the labels that the window saves while you work.")

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A session's name, or a unique prefix of it.")
]


@app.command(name="list")
def list_sessions(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List all saved sessions, the newest first."""
    infos = _store().sessions()
    if as_json:
        print_json([_facts(info) for info in infos])
        return
    table = Table()
    for title in ("name", "image", "saved", "edited voxels", "reviewed", "size", "in use"):
        table.add_column(title)
    for info in infos:
        facts = _facts(info)
        table.add_row(
            one_line(facts["name"]),
            one_line(facts["image"]),
            f"{info.saved_at.astimezone():%Y-%m-%d %H:%M}",
            f"{facts['edited_voxels']:,}",
            f"{facts['reviewed']} of {facts['slices']}",
            f"{info.size / 1e6:.1f} MB",
            "yes" if info.in_use else "",
        )
    print_table(table)


@app.command(name="export")
def export_session(
    name: NameArgument,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The zip file to write.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Write a session into one file, to share or archive it."""
    store = _store()
    typer.echo(one_line(store.export(_named(store, name), target, overwrite=overwrite)))


@app.command(name="import")
def import_session(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `sessions export` wrote.")],
) -> None:
    """Import a session; the window offers it when its image is opened."""
    typer.echo(one_line(_store().import_(source).folder.name))


@app.command(name="delete")
def delete_session(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a session permanently."""
    store = _store()
    info = _named(store, name)
    if not yes and not typer.confirm(
        f"Delete the saved labels of {one_line(info.about.image_name)}?", err=True
    ):
        raise InputError("Nothing was deleted.")
    store.delete(info)
    typer.echo(one_line(info.folder.name))


def _store() -> SessionStore:
    from napari_transunet.annotation.session_store import SessionStore

    return SessionStore()


def _named(store: SessionStore, name: str) -> SessionInfo:
    found = [info for info in store.sessions() if info.folder.name.startswith(name)]
    exact = [info for info in found if info.folder.name == name]
    if len(exact or found) != 1:
        which = "Several sessions begin" if found else "No session begins"
        raise InputError(f"{which} with {name!r}; “napari-transunet sessions list” shows all.")
    return (exact or found)[0]


def _facts(info: SessionInfo) -> dict[str, object]:
    return {
        "name": info.folder.name,
        "image": info.about.image_name,
        "image_path": info.about.image_path,
        "fingerprint": info.about.fingerprint,
        "shape_zyx": list(info.about.shape),
        "saved": info.saved_at.isoformat(timespec="seconds"),
        "edited_voxels": info.summary.get("edited_voxels", 0),
        "reviewed": info.summary.get("reviewed", 0),
        "slices": info.summary.get("slices", 0),
        "bytes": info.size,
        "in_use": info.in_use,
    }
