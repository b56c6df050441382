"""What installing and importing the package costs and gives."""

import json
import subprocess
import sys
import tomllib
import zipfile
import zlib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import napari_transunet

ROOT = Path(__file__).parents[1]
GUI = {"napari", "qtpy", "PyQt6", "PySide6", "magicgui", "superqt", "vispy"}
POSIX_MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
SUBPACKAGES = ("annotation", "checkpoints", "inference", "io", "metrics", "model", "training", "volumes")


def modules_in(package):
    folder = Path(napari_transunet.__file__).parent / package
    return [
        ".".join(("napari_transunet", *path.relative_to(folder.parent).with_suffix("").parts))
        for path in sorted(folder.rglob("*.py"))
        if path.name != "__init__.py"
    ]


def imports_of(*packages):
    return "\n".join(f"import {name}" for package in packages for name in modules_in(package))


WITHOUT_POSIX = f"""
import builtins
usual = builtins.__import__

def importing(name, globals=None, *others, **named):
    importer = (globals or {{}}).get("__name__", "")
    if name.partition(".")[0] in {POSIX_MODULES} and importer.startswith("napari_transunet"):
        raise ImportError(f"{{importer}} imports {{name}}")
    return usual(name, globals, *others, **named)

builtins.__import__ = importing
"""

ONE_COMMAND = """
import napari_transunet.cli, napari_transunet.project.project
napari_transunet.cli.app(["project", "status", "--help"], standalone_mode=False)
"""

ALL_COMMANDS = """
import typer
list(typer.main.get_command(napari_transunet.cli.app).commands.values())
"""

EVERYTHING = """
import importlib, pkgutil
for module in pkgutil.walk_packages(napari_transunet.__path__, "napari_transunet."):
    if ".viewer" not in module.name and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""

SEGMENT = """
import numpy as np
from napari_transunet import Predictor, load_checkpoint
from napari_transunet.checkpoints.registry import default_checkpoint
predictor = Predictor(load_checkpoint(default_checkpoint()), precision="float32")
next(predictor.iter_batches(np.zeros((1, 32, 32), np.int16)))
"""


def loaded_after(stages):
    """What a fresh interpreter has loaded once it did more and more: all modules by name.

    The modules of POSIX are kept from ours, as on Windows.
    """
    stages = {"package": WITHOUT_POSIX + "import napari_transunet", **stages}
    tell = "\nimport json, sys\nprint('loaded', json.dumps(list(sys.modules)))\n"
    # A process that ends at once need not search for garbage.
    script = "import gc\ngc.disable()\n" + tell.join([*stages.values(), ""])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("loaded ")]
    return {
        stage: {
            part
            for name in json.loads(line.removeprefix("loaded "))
            for part in (name, name.partition(".")[0])
        }
        for stage, line in zip(stages, lines, strict=True)
    }


@pytest.fixture(scope="module")
def loaded():
    return loaded_after(
        {
            "status of a project": ONE_COMMAND,
            "command line": ALL_COMMANDS,
            "reading": "from napari_transunet import read_volume",
            "volumes": imports_of("io", "volumes"),
        }
    )


@pytest.fixture(scope="module")
def loaded_with_torch():
    return loaded_after(
        {
            "segmenting": SEGMENT,
            "engine": imports_of(*SUBPACKAGES),
            "everything": EVERYTHING,
        }
    )


@pytest.mark.parametrize("stage", ["package", "command line"])
def test_importing_and_starting_load_neither_torch_nor_qt(loaded, stage):
    assert "napari_transunet" in loaded[stage]
    assert not loaded[stage] & (GUI | {"torch", "monai", "SimpleITK"})


def test_a_command_imports_itself_alone(loaded):
    assert "napari_transunet.project.index" in loaded["status of a project"]
    assert not loaded["status of a project"] & {"numpy", "asyncio", "psutil", "napari_transunet.cli.train"}
    assert "napari_transunet.cli.train" in loaded["command line"]


def test_reading_waits_for_no_library_that_few_formats_need(loaded):
    assert "napari_transunet.io.formats" in loaded["reading"]
    assert not loaded["reading"] & {"scipy", "h5py", "zarr", "tifffile", "highdicom", "skimage"}


def test_volumes_need_no_torch(loaded):
    assert "napari_transunet.io.reading" in loaded["volumes"]
    assert not loaded["volumes"] & (GUI | {"torch", "monai"})


@pytest.mark.long
def test_segmenting_loads_no_compiler_and_no_trainer(loaded_with_torch):
    assert "torch" in loaded_with_torch["segmenting"]
    forbidden = {"monai", "h5py", "lightning", "matplotlib", "sympy", "torch._dynamo"}
    assert not loaded_with_torch["segmenting"] & (GUI | forbidden)


@pytest.mark.long
def test_the_engine_needs_neither_napari_nor_qt(loaded_with_torch):
    assert "napari_transunet.training.fitting" in loaded_with_torch["engine"]
    assert not loaded_with_torch["engine"] & GUI


@pytest.mark.long
def test_every_module_can_be_imported_where_the_modules_of_posix_are_absent(loaded_with_torch):
    assert {"napari_transunet.annotation.session_store", "napari_transunet.cli.project"} <= loaded_with_torch[
        "everything"
    ]


@pytest.mark.parametrize("name", napari_transunet.__all__)
def test_every_public_name_is_there(name):
    assert getattr(napari_transunet, name) is not None
    assert name in dir(napari_transunet)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = napari_transunet.nothing_of_the_kind


def test_everything_the_contract_names_is_public():
    promised = {
        "VARIANTS", "TransUNet", "Predictor", "load_checkpoint", "load_imagenet", "save_checkpoint", "read_volume",
        "write_labels", "evaluate",
    }  # fmt: skip
    assert promised <= set(napari_transunet.__all__)


def test_entry_points_are_installed():
    (script,) = entry_points(group="console_scripts", name="napari-transunet")
    assert callable(script.load())
    (manifest,) = entry_points(group="napari.manifest", name="napari-transunet")
    module, file = manifest.value.split(":")
    assert (Path(sys.modules[module].__file__).parent / file).is_file()


def test_the_base_install_asks_for_no_gui():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {
        requirement.partition("[")[0].partition(">")[0].lower() for requirement in project["dependencies"]
    }
    assert not needed & {name.lower() for name in GUI}
    assert "torch" in needed


def test_the_wheel_holds_the_manifest_and_the_shipped_checkpoints(tmp_path, monkeypatch):
    """Built with the backend that is installed, without a network: `make wheel-check` installs it as a user does."""
    wheel_builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    builder = wheel_builder.WheelBuilder(str(ROOT))
    really = zlib.compressobj
    monkeypatch.setattr(zlib, "compressobj", lambda _level, *more: really(0, *more))  # 130 MB of weights
    built = next(builder.build(directory=str(tmp_path), versions=["standard"]))
    names = set(zipfile.ZipFile(built).namelist())
    assert "napari_transunet/napari.yaml" in names
    assert "napari_transunet/py.typed" in names
    shipped = [path for path in (ROOT / "weights").glob("*") if path.suffix == ".safetensors"]
    for path in shipped:
        assert f"napari_transunet/weights/{path.name}" in names
    assert not [name for name in names if name.startswith(("tests/", "weights/", "benchmarks/"))]
    metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
    text = zipfile.ZipFile(built).read(metadata).decode()
    assert "Classifier: Framework :: napari" in text
    assert "License-Expression: Apache-2.0" in text
