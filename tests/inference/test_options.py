"""How to predict, as one value: what it refuses, its old names, and what follows from it."""

import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from napari_transunet.annotation.provenance import RunRecord, provenance_of
from napari_transunet.cli import app
from napari_transunet.errors import InputError
from napari_transunet.inference.options import PredictorOptions, option_text
from napari_transunet.inference.predictor import Predictor
from napari_transunet.model.transunet import TransUNet

NAMES = [option.name for option in fields(PredictorOptions)]


@pytest.mark.parametrize(
    "fields",
    [
        {"pipeline": "magic"},
        {"batch_size": 0},
        {"pipeline": "paper", "orthogonal_planes": True},
        {"pipeline": "paper", "mirror_tta": True},
    ],
)
def test_options_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        PredictorOptions(**fields)


def test_torch_types_are_as_good_as_their_names() -> None:
    given = PredictorOptions(device=torch.device("cuda", 1), precision=torch.bfloat16)  # type: ignore[arg-type]
    assert given == PredictorOptions(device="cuda:1", precision="bfloat16")


def test_an_option_that_does_not_exist_is_an_error(small: TransUNet) -> None:
    with pytest.raises(TypeError, match="bach_size"):
        Predictor(small, bach_size=3)


def test_keywords_take_the_place_of_options(small: TransUNet) -> None:
    options = PredictorOptions(device="cpu", precision="float32", batch_size=3)
    predictor = Predictor(small, options, batch_size=5)
    assert predictor.options == options.changed(batch_size=5)
    assert predictor.batch_size == 5
    assert predictor.precision == torch.float32


def test_old_names_still_work_and_warn(small: TransUNet) -> None:
    with pytest.warns(DeprecationWarning, match=r"planes .* orthogonal_planes") as warned:
        predictor = Predictor(small, device="cpu", planes=3, flips=True)
    assert {warning.filename for warning in warned} == {__file__}
    assert (predictor.orthogonal_planes, predictor.mirror_tta) == (True, True)
    with pytest.warns(DeprecationWarning, match="orthogonal_planes"):
        assert predictor.planes == 3
    with pytest.warns(DeprecationWarning, match="mirror_tta"):
        assert predictor.flips
    with pytest.warns(DeprecationWarning, match="planes"), pytest.raises(InputError, match="1 or 3 axes"):
        Predictor(small, planes=2)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_on_the_command_line_and_explained(name: str) -> None:
    usage = CliRunner().invoke(app, ["segment", "--help"], env={"COLUMNS": "400", "TERM": "dumb"}).stdout
    assert f"--{name.replace('_', '-')}" in usage
    assert option_text(name).usage in " ".join(usage.split())


def test_the_default_is_among_the_choices() -> None:
    defaults = PredictorOptions()
    for name in NAMES:
        choices = [value for _, value in option_text(name).choices]
        assert not choices or getattr(defaults, name) in choices


def test_making_options_imports_no_torch() -> None:
    code = "import sys, napari_transunet.inference.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_is_recorded_as_the_predictor_ran(small: TransUNet) -> None:
    predictor = Predictor(small, device="cpu", precision="bfloat16", backend="torch", orthogonal_planes=True)
    record = RunRecord.from_predictor(
        predictor, date="2026-01-01", seconds=1.234, slices=3, total=4, axis=1, between=(2, 5)
    )
    assert (record.checkpoint, record.sha256) == (small.variant.name, None)
    assert (record.device, record.precision, record.backend) == ("cpu", "bfloat16", "torch")
    assert (record.planes, record.flips) == (3, False)
    assert (record.first_slice, record.last_slice, record.axis, record.seconds) == (2, 5, 1, 1.23)
    found = provenance_of(
        [
            RunRecord.from_predictor(
                predictor, date="2025-01-01", seconds=1, slices=4, total=4, axis=0, name="older"
            ),
            record,
        ],
        {"edited_voxels": 3},
    )
    assert (found["checkpoint"], found["planes"], found["edited_voxels"]) == (record.checkpoint, 3, 3)
    assert [run["checkpoint"] for run in found["runs"]] == ["older", record.checkpoint]
    assert provenance_of([]) == {"runs": []}
