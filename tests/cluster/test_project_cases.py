"""A project segmented on a cluster: its cases are what they would be here."""

from pathlib import Path

import numpy as np

from napari_transunet.project.case_labels import load_labels
from napari_transunet.project.project import Project
from tests.cli.conftest import run  # noqa: F401

FAST = ("--device", "cpu", "--backend", "torch", "--precision", "float32")


def test_cases_are_segmented_there_once(run, cluster, scans, checkpoint):  # noqa: F811
    scans(3)
    assert run("project", "new", "study", "scans", "--checkpoint", checkpoint).exit_code == 0
    result = run("project", "segment", "study", *FAST, "--scheduler", cluster)
    assert result.exit_code == 0, result.stderr
    assert "3 segmented." in result.stderr
    project = Project.open(Path("study"))
    for case in project.cases():
        labels = load_labels(project, case)
        assert (labels.labels == 2).all()
        assert case.run.sha256 is not None
        assert np.isfinite(labels.session.uncertainty.means).all()
    assert "Nothing was left" in run("project", "segment", "study", *FAST, "--scheduler", cluster).stderr
