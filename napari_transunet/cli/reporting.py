"""What is reported at the terminal, and how errors become one line and an exit status."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from napari_transunet.errors import USERS_ERRORS, InputError, sentence_of
from napari_transunet.io.ambiguous import SeveralVolumesError

BAD_INPUT = 2
INTERRUPTED = 130


def one_line(text: object) -> str:
    """A message as one printable line: what comes from inside a file must not steer the terminal."""
    line = " ".join(str(text).split())
    return line if line.isprintable() else "".join(one if one.isprintable() else " " for one in line)


def say(text: object) -> None:
    """Tell one line on stderr; stdout is for results."""
    typer.echo(one_line(text), err=True)


def counted(number: int, what: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def end(*, stopped: bool = False, failed: bool = False) -> None:
    """Leave with the exit status of what was stopped, or of what failed in part; go on where neither is so."""
    if stopped or failed:
        raise typer.Exit(INTERRUPTED if stopped else BAD_INPUT)


@contextmanager
def interruptible(*, told: bool = True) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM lets the work end in good order, and is `told`; a second one ends it at once."""
    pressed = False

    def press(*_: int | FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        if told:
            say("Stopping after this step; press Ctrl-C again to stop at once.")

    before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """An empty path would mean the current folder; it is what a script passes whose variable is not set."""
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            named = f"The value of {before}" if before.startswith("-") else "An argument"
            raise InputError(
                f"{argument.removesuffix('=') or named} is empty; give a value, or leave it out."
            )


class Commands(TyperGroup):
    """The commands, with every error that a user can cause reported in one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command that `args` name (this process's by default), and leave with its exit status."""
        run = super().main
        options = {"windows_expand_args": windows_expand_args, "standalone_mode": False, **extra}
        if not standalone_mode:
            return run(args, prog_name, complete_var, **options)
        arguments = sys.argv[1:] if args is None else args
        try:
            _refuse_empty(arguments)
            status = run(args, prog_name, complete_var, **options)
        except typer.TyperException as error:
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "napari-transunet"
            say(f"Error: {error.format_message()} ({command} --help shows the usage.)")
            sys.exit(BAD_INPUT)
        except typer.Abort:
            sys.exit(INTERRUPTED)
        except USERS_ERRORS as error:
            say(f"Error: {sentence_of(error)}{self._way_round(error, arguments)}")
            sys.exit(BAD_INPUT)
        if status == INTERRUPTED:
            say("Interrupted; no file is incomplete.")
        sys.exit(status or 0)

    def _way_round(self, error: BaseException, arguments: Sequence[str]) -> str:
        """What chooses one of several volumes in a file where the command itself has no option for that."""
        command = next((self.commands[one] for one in arguments if one in self.commands), None)
        if command is None or not isinstance(error, SeveralVolumesError) or error.which == "key":
            return ""
        option = f"--{error.which}"
        if any(option in parameter.opts for parameter in command.params):
            return ""
        return f" To extract one into a file, use `napari-transunet convert {option}`."
