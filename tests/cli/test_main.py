"""The command line as scripts use it: exit status, one line for an error, clean stdout."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import napari_transunet
from napari_transunet import __version__
from napari_transunet.model.variants import VARIANTS
from tests.commands import error_line


def test_version_and_help_go_to_stdout(run):
    assert run("--version").stdout.strip() == f"napari-transunet {__version__}"
    help_text = run("--help")
    assert help_text.exit_code == 0
    for command in ("demo", "segment", "inspect", "variants", "convert", "evaluate"):
        assert command in help_text.stdout
    assert run().stdout == help_text.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nonsense",), "nonsense"),
        (("segment",), "INPUT"),
        (("segment", "scan.nii.gz"), "--output"),
        (("segment", "a", "-o", "b.nii.gz", "--precision", "float8"), "float8"),
        (("segment", "a", "-o", "b.nii.gz", "--batch-size", "0"), "batch-size"),
        (("segment", "a", "-o", "b.nii.gz", "--img-size", "12x3x4"), "image size"),
        (("segment", "a", "-o", "b.nii.gz", "--planes", "2"), "--planes must be 1 or 3, not 2"),
        (("segment", "a.nii.gz", "-o", "labels.png"), ".nii.gz"),
        (("segment", "a.nii.gz", "b.nii.gz", "-o", "labels.nii.gz"), "folder"),
        (("segment", "a/ct.nii.gz", "b/ct.nii.gz", "-o", "out"), "ct.nii.gz"),
        (("inspect", "missing.pth"), "missing.pth"),
        (("inspect", "nobody"), "nobody"),
        (("convert", "missing.nii.gz", "out.nrrd"), "missing.nii.gz"),
        (("evaluate", "missing.nii.gz", "other.nii.gz"), "missing.nii.gz"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(run, arguments, words):
    result = run(*arguments)
    assert words in error_line(result)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_a_terminal_without_unicode_gets_a_question_mark_and_the_rest():
    result = subprocess.run(
        [sys.executable, "-m", "napari_transunet", "variants"],
        env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "R50-ViT-Ti_16" in result.stdout


def test_real_process_has_a_clean_stdout_and_status(tmp_path):
    def call(*arguments):
        environment = os.environ | {"NAPARI_TRANSUNET_CHECKPOINTS": str(tmp_path)}
        command = [sys.executable, "-m", "napari_transunet", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
        )

    good = call("variants", "--json")
    assert good.returncode == 0
    assert len(json.loads(good.stdout)) == len(VARIANTS)
    assert good.stderr == ""

    bad = call("convert", "missing.nii.gz", "out.nrrd")
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.count("\n") == 1
    assert "Traceback" not in bad.stderr


def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")  # found before the real one
    search = os.pathsep.join([str(tmp_path), str(Path(napari_transunet.__file__).parents[1])])
    result = subprocess.run(
        [sys.executable, "-m", "napari_transunet", "variants"],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": search},
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("command", "status"), [("variants", 0), ("inspect", 2)])
def test_a_signal_while_the_process_ends_changes_nothing(command, status, number):
    code = (
        "import atexit, signal, sys; from napari_transunet.cli import main\n"
        f"atexit.register(lambda: signal.raise_signal({int(number)}))\n"
        f"sys.argv[1:] = ['{command}']; main()"
    )
    ended = [
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
        for text in (code, code.replace("signal.raise_signal", "str"))
    ]
    assert [one.returncode for one in ended] == [status] * 2
    assert ended[0].stdout == ended[1].stdout
    assert ended[0].stderr == ended[1].stderr


def test_names_from_a_file_cannot_steer_the_terminal(run, tmp_path):
    result = run("convert", "missing\x1b[31m\nname.nii.gz", "out.nrrd")
    assert "\x1b" not in error_line(result)
    assert len(result.stderr.splitlines()) == 1


def test_demo_without_napari_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "napari", None)
    assert "napari-transunet[gui]" in error_line(run("demo", "--headless"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("segment", "scan.nii.gz", "-o", ""), "-o"),
        (("convert", "scan.nii.gz", ""), "argument"),
        (("evaluate", "a.nii", "b.nii", "--csv="), "--csv"),
    ],
)
def test_an_empty_path_is_not_taken_for_the_current_folder(run, arguments, named):
    assert named in error_line(run(*arguments))
    assert list(Path.cwd().iterdir()) == []
