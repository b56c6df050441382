"""A project of three small scans, and a checkpoint whose answer is known."""

import json
import os
import time

import numpy as np
import pytest

from napari_transunet.project.leases import STALE_AFTER
from napari_transunet.project.project import Project
from tests.cli.conftest import checkpoint, narrow, write_image

__all__ = ["checkpoint", "narrow"]


@pytest.fixture
def scans(tmp_path):
    """Three scans of 5 slices in a folder."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(3):
        values = np.random.default_rng(number).integers(-1000, 1000, (5, 40, 36)).astype(np.int16)
        write_image(folder / f"case_{number}.nii.gz", values)
    return folder


@pytest.fixture
def project(tmp_path, scans, checkpoint):
    """A project of the three scans, for the known checkpoint."""
    made = Project.create(tmp_path / "study", checkpoint=str(checkpoint))
    made.add([scans])
    return made


def abandon(leases, key):
    """Let a lease look as that of another machine which has not been heard of for long."""
    path = leases._path(key, leases.newest(key))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "another"}))
    then = time.time() - STALE_AFTER - 1
    os.utime(path, (then, then))
