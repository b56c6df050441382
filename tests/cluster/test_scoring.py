"""Scoring on a cluster gives what scoring here gives."""

import json

import numpy as np

from tests.cli.conftest import run, write_image  # noqa: F401


def test_scores_are_those_of_the_plain_loop(run, cluster, tmp_path):  # noqa: F811
    random = np.random.default_rng(0)
    for folder in ("own", "true"):
        (tmp_path / folder).mkdir()
        for case in range(3):
            labels = np.zeros((6, 12, 12), np.uint8)
            labels[1:4, 2 : 6 + case, 3:9] = 1 + (random.random((3, 4 + case, 6)) < 0.2)
            write_image(tmp_path / folder / f"case{case}.nii.gz", labels)
    (tmp_path / "own/bad.nii.gz").write_bytes(b"no labels")
    write_image(tmp_path / "true/bad.nii.gz", labels)
    plain = run("evaluate", tmp_path / "own", tmp_path / "true", "--json")
    there = run("evaluate", tmp_path / "own", tmp_path / "true", "--json", "--scheduler", cluster)
    assert plain.exit_code == there.exit_code == 2
    assert json.loads(plain.stdout) == json.loads(there.stdout)
    assert "3 of 4 cases scored; failed: bad." in there.stderr
