"""The container recipe names what there is: no Docker is needed here, and none builds the image."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from napari_transunet.cli import app

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not (ROOT / "docker/Dockerfile").is_file(), reason="only a checkout holds the recipe"
)


def steps():
    """The instructions of the Dockerfile and their arguments."""
    text = (ROOT / "docker/Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and line[0] != "#"]
    return [(word, rest) for word, rest in lines]


def understood(words):
    """Whether the command takes these words and options; a file that is not there is another matter."""
    command = typer.main.get_command(app).commands[words[0]]
    if "--help" in words:
        return True
    command.make_parser(typer.Context(command)).parse_args(list(words[1:]))
    return True


def test_the_image_installs_extras_that_there_are_and_starts_a_command_that_there_is():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = steps()
    (version,) = (rest.partition(":")[2] for word, rest in found if word == "FROM")
    assert tuple(map(int, version.removesuffix("-slim").split("."))) >= (3, 11)
    (extras,) = re.findall(r"/source\[([\w,]+)\]", str(found))
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    last = dict(found)
    assert yaml.safe_load(last["ENTRYPOINT"]) == ["napari-transunet"]
    assert "napari-transunet" in project["scripts"]
    assert understood(yaml.safe_load(last["CMD"]))
    assert [word for word, _ in found].index("USER") < len(found) - 1  # it is not root that runs it
    # Nothing that the package is built from is kept from the image.
    left_out = (ROOT / "docker/Dockerfile.dockerignore").read_text("utf-8").split()
    needed = {"pyproject.toml", "README.md", "LICENSE", "weights", "scripts", "napari_transunet"}
    assert all((ROOT / name).exists() for name in needed)
    assert not needed & set(left_out)


def test_the_services_run_commands_with_options_that_there_are():
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text("utf-8"))["services"]
    assert set(services) == {"scheduler", "worker"}
    for name, service in services.items():
        words = shlex.split(service["command"])
        assert words[0] == name
        assert understood(words)
        mounted = {volume.split(":")[1] for volume in service["volumes"]}
        named = {Path(word).parent.as_posix() for word in words if word.startswith("/")}
        assert named <= mounted
    address = shlex.split(services["worker"]["command"])[1]
    port = address.rpartition(":")[2]
    assert address == f"tls://scheduler:{port}"
    assert services["scheduler"]["ports"] == [f"{port}:{port}"]
