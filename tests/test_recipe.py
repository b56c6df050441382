"""The recipe for conda-forge and the citation tell what pyproject.toml tells."""

import tomllib
from pathlib import Path

import pytest
import yaml

import napari_transunet

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"isal": "python-isal", "torch": "pytorch", "napari[pyqt6]": "napari"}

pytestmark = pytest.mark.skipif(
    not (ROOT / "conda/recipe.yaml").is_file(), reason="only a checkout holds the recipe"
)


def _as_conda(requirement: str) -> str:
    name = next(
        requirement[:at]
        for at in range(1, len(requirement) + 1)
        if requirement[at : at + 1] in (">", "<", "=", "")
    )
    version = requirement[len(name) :].partition(";")[0].strip()
    return f"{CONDA_NAMES.get(name, name.lower())} {version}"


def test_the_recipe_requires_what_the_package_requires():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    requirements = yaml.safe_load((ROOT / "conda/recipe.yaml").read_text("utf-8"))["requirements"]
    extras = project["optional-dependencies"]
    wanted = {_as_conda(each) for each in (*project["dependencies"], *extras["export"])}
    assert set(requirements["run"]) - {"python >=${{ python_min }}"} == wanted
    window = {_as_conda(each) for each in extras["gui"] if not each.startswith("napari-transunet")}
    assert set(requirements["run_constraints"]) == window


def test_the_recipe_is_one_to_the_program_that_builds_them():
    recipes = pytest.importorskip("rattler_build.stage0")
    made = recipes.Stage0Recipe.from_file(ROOT / "conda/recipe.yaml").render()
    assert [(one.recipe.package.name, str(one.recipe.package.version)) for one in made] == [
        ("napari-transunet", napari_transunet.__version__)
    ]
    unknown = (ROOT / "conda/recipe.yaml").read_text("utf-8").replace("noarch: python", "noarch: snake")
    with pytest.raises(Exception, match="noarch"):
        recipes.Stage0Recipe.from_yaml(unknown)


def test_versions_are_one():
    recipe = yaml.safe_load((ROOT / "conda/recipe.yaml").read_text("utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert recipe["context"]["version"] == citation["version"] == napari_transunet.__version__
