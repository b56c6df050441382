"""The commands `inspect` and `variants`."""

import json

from napari_transunet.model.variants import VARIANTS
from tests.commands import error_line


def test_variants_lists_all_ten(run):
    assert [entry["name"] for entry in json.loads(run("variants", "--json").stdout)] == list(VARIANTS)
    table = run("variants").stdout
    assert all(name in table for name in VARIANTS)


def test_inspect_tells_the_network_and_its_card(run, checkpoint):
    facts = json.loads(run("inspect", checkpoint, "--json").stdout)
    assert (facts["variant"], facts["num_classes"], facts["img_size"]) == ("testing", 3, [32, 32])
    assert facts["card"]["labels"][1]["name"] == "liver"
    assert facts["ok"] is True

    shown = run("inspect", checkpoint)
    assert shown.exit_code == 0
    assert "testing" in shown.stdout
    assert "1 spleen, 2 liver" in shown.stdout


def test_inspect_of_something_else_fails_in_one_line_but_still_reports(run, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"\x00" * 100)
    result = run("inspect", "weights.safetensors", "--json")
    assert "weights.safetensors" in error_line(result)
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert report["problems"]
