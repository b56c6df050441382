"""The command line, called within the process."""

import functools
from typing import Any

import typer.testing
from typer.testing import CliRunner, Result

from napari_transunet.cli import app

# The runner would take all commands apart anew for each call, a tenth of a second.
typer.testing._get_command = functools.cache(typer.testing._get_command)


def invoke(*arguments: object, **more: Any) -> Result:
    """What a command line answers. An exception without a sentence is raised, a traceback refused."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], **more)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.stderr
    return result


def error_line(result):
    """The one line that tells what was wrong."""
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]
