"""A session of reviewing and correcting labels, with real buttons in a real window: what docs/annotating.md shows.

Run by `make review-session`, on a virtual display. The first process segments a CT, corrects it, runs another
checkpoint, and is killed in the middle of painting. The second one restores, compares, exports everything, and reads it
all back. Three more play the scenes of `review_scenes.py`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.review_scenes import (
    backup,
    close_in_a_run,
    close_in_an_export,
    learn_an_organ,
    range_left_on,
    restore_in_review,
    same_shape,
)

if TYPE_CHECKING:
    from napari_transunet.viewer.review.review_dock import ReviewDock
    from napari_transunet.viewer.segment.segment_dock import SegmentDock
    from napari_transunet.viewer.sessions.results import Result

CHECKPOINT = "abdominal-organs-ct"
ORGAN = 5  # the liver


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("review-output"))
    parser.add_argument("--pictures", type=Path, default=None, help="where to put the screenshots")
    parser.add_argument("--part", choices=list(PARTS), default=None)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    pictures = (arguments.pictures or work).resolve()
    os.environ["NAPARI_TRANSUNET_SESSIONS"] = str(work / "sessions")
    os.environ["NAPARI_TRANSUNET_CHECKPOINTS"] = str(work / "checkpoints")
    os.environ["NAPARI_CONFIG"] = ""
    if arguments.part is None:
        whole(work, pictures)
    else:
        PARTS[arguments.part](work, pictures)


def whole(work: Path, pictures: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    pictures.mkdir(parents=True, exist_ok=True)
    make_series(work / "ct")
    make_series(work / "other_ct", other=True)
    make_checkpoint(work / "checkpoints" / "other.safetensors")
    command = [sys.executable, __file__, "--work", str(work), "--pictures", str(pictures), "--part"]
    process = subprocess.Popen([*command, "first"], stdout=subprocess.PIPE, text=True)
    strokes: list[tuple[float, int]] = []
    assert process.stdout is not None
    for line in process.stdout:
        print(line.rstrip(), flush=True)
        if line.startswith("stroke "):
            _, moment, voxels = line.split()
            strokes.append((float(moment), int(voxels)))
            if len(strokes) == 60:
                process.send_signal(signal.SIGKILL)
                break
    killed = time.time()
    process.wait()
    due = [voxels for moment, voxels in strokes if killed - moment > 6.0]
    if not due:
        sys.exit("The first part ended before it could be killed.")
    (work / "due.json").write_text(json.dumps({"edited": max(due)}))
    print(f"killed with {len(strokes)} strokes made, {len(due)} of them more than 6 s ago")
    for part in ("second", "third", "fourth", "fifth"):
        subprocess.run([*command, part], check=True)


class Window:
    """The viewer, and short names for what a person does in it."""

    def __init__(self, pictures: Path) -> None:
        import napari
        from qtpy.QtWidgets import QApplication

        from napari_transunet.viewer.widgets import priority
        from napari_transunet.viewer.widgets.docks import SEGMENT, show_dock

        priority._NICENESS = 0  # where other processes keep every core, a run that gives way would never end
        self.pictures = pictures
        self.viewer = napari.Viewer(show=True)
        self.viewer.window._qt_window.resize(1720, 1100)
        self.process = QApplication.processEvents
        self.segment: SegmentDock = show_dock(self.viewer, SEGMENT)
        self._review: ReviewDock | None = None

    def until(self, condition: Callable[[], object], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not condition():
            self.process()
            time.sleep(0.003)
            if time.monotonic() > end:
                raise TimeoutError("It did not come about in time.")

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)

    def picture(self, name: str) -> None:
        from PIL import Image

        self.wait(0.4)
        path = self.pictures / f"review-{name}.png"
        pixels = self.viewer.screenshot(canvas_only=False, flash=False)
        image = Image.fromarray(pixels[..., :3]).resize((1290, 825), Image.Resampling.LANCZOS)
        image.quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)

    def press(self, name: str) -> None:
        from qtpy.QtWidgets import QAbstractButton

        for dock in (self._review, self.segment):
            button = dock.findChild(QAbstractButton, name) if dock is not None else None
            if button is not None:
                assert button.isEnabled(), f"{name}: {button.toolTip()}"
                button.click()
                self.process()
                return
        raise LookupError(name)

    def open(self, folder: Path) -> Any:
        """The layer that shows the volume of that folder."""
        self.until(lambda: self.segment.checkpoint.candidates)
        self.segment.loader.open_path(folder)
        self.until(lambda: self.segment.volume.layer is not None)
        self.until(lambda: self.segment.ready)
        return self.segment.volume.layer

    def run(self) -> str:
        self.press("segment_volume")
        self.until(lambda: self.segment.running)
        self.until(lambda: not self.segment.running)
        self.wait(0.5)
        return self.segment.status

    def start_review(self, *, labels: bool = True) -> None:
        from napari_transunet.viewer.widgets.docks import REVIEW, show_dock

        self._review = show_dock(self.viewer, REVIEW)
        self.until(lambda: not labels or self.review.model.overview is not None)
        self.wait(0.5)

    def tool(self, name: str) -> str:
        from qtpy.QtWidgets import QLabel

        self.press(f"tool_{name}")
        self.until(lambda: not self.review.corrections.busy)
        self.wait(0.6)
        return self.review.findChild(QLabel, "correction_status").text()

    @property
    def review(self) -> ReviewDock:
        assert self._review is not None, "the dock was not opened"
        return self._review

    @property
    def result(self) -> Result:
        result = self.review.model.result
        assert result is not None, "there are no labels"
        return result


def first(work: Path, pictures: Path) -> None:
    window = Window(pictures)
    print("opened:", window.open(work / "ct").name, flush=True)
    print("segmented:", window.run(), flush=True)
    window.start_review()
    window.press("next_slice")
    print("worst slice:", window.review.model.slice_in_view, flush=True)
    window.picture("1-worst-slice")

    layer, session = window.result.layer, window.result.session
    at = int((layer.data == 7).sum(axis=(1, 2)).argmax())  # where the pancreas is largest, most organs show
    (work / "slice.json").write_text(json.dumps(at))
    window.review.model.go_to(at)
    window.press(f"organ_{ORGAN}")
    layer.brush_size = 14
    y, x = np.argwhere(layer.data[at] == ORGAN).mean(axis=0).round().astype(int)
    layer.paint((at, int(y) - 60, int(x)), ORGAN)
    layer.paint((at, int(y) + 40, int(x)), 0)
    by_hand = session.manual_edit_mask(layer.data) & (np.arange(len(layer.data)) == at)[:, None, None]
    painted = layer.data[by_hand].copy()
    window.wait(1)
    window.picture("2-painted")
    window.press("mark_reviewed")
    window.review.model.go_to(at)
    window.press("scope_slices_1")
    print("smoothed:", window.tool("smooth"), flush=True)
    window.picture("3-smoothed")

    window.segment.checkpoints.add(work / "checkpoints" / "other.safetensors")
    chosen = window.segment.checkpoint
    window.until(lambda: chosen.candidate is not None and chosen.candidate.path.name == "other.safetensors")
    print("another checkpoint:", window.run(), flush=True)
    assert np.array_equal(layer.data[by_hand], painted), "a run changed an edit"
    assert len(session.runs) == 2, "the other checkpoint made labels of its own"
    window.until(lambda: window.review.model.overview is not None and window.review.model.overview.conflicts)
    window.picture("4-edits-stay")
    window.press("mark_reviewed")  # again: the other checkpoint changed the slice

    rng = np.random.default_rng(0)
    while True:  # until somebody kills it
        z = at + int(rng.integers(-20, 20))
        window.review.model.go_to(z)
        layer.paint((z, int(rng.integers(100, 400)), int(rng.integers(100, 400))), ORGAN)
        edited = session.edited_voxels(layer.data)
        print("stroke", time.time(), edited, flush=True)
        window.wait(0.25)


def second(work: Path, pictures: Path) -> None:
    from qtpy.QtWidgets import QCheckBox, QComboBox, QLabel

    window = Window(pictures)
    window.open(work / "ct")
    window.until(lambda: window.segment.question.open, 60)
    print("asked:", window.segment.findChild(QLabel, "question").text(), flush=True)
    window.picture("5-restore")
    window.press("question_yes")
    window.until(lambda: "Restored" in window.segment.status, 60)
    window.start_review()
    layer, session = window.result.layer, window.result.session
    at = json.loads((work / "slice.json").read_text())
    edited = session.edited_voxels(layer.data)
    due = json.loads((work / "due.json").read_text())["edited"]
    print(f"restored: {edited:,} voxels edited, {due:,} of them were due", flush=True)
    assert edited >= due, "edits older than the promised delay were lost"
    assert at in session.reviewed
    window.review.model.go_to(at)
    window.until(lambda: window.review.model.overview is not None and window.review.model.overview.conflicts)

    add_reference(window)
    window.press("show_disagreement")
    window.review.findChild(QComboBox, "compare_with").setCurrentText("reference")
    window.press("compare")
    window.until(lambda: window.review.measurements.disagreement is not None, 120)
    disagreement = window.review.measurements.disagreement
    assert disagreement is not None
    scores = {window.review.model.names[v]: round(s["dice"], 3) for v, s in disagreement.scores.items()}
    print("Dice against the reference:", scores, flush=True)
    window.picture("6-compared")
    window.press("show_disagreement")
    window.press("measure")
    window.until(lambda: window.review.measures._measures, 120)
    window.picture("7-measured")

    export = work / "export"
    export.mkdir()
    window.press("review_export")
    dialog = window.review.exporter
    for box in dialog.findChildren(QCheckBox):
        if box.objectName().startswith("format_"):
            assert box.isEnabled(), box.toolTip()
            box.setChecked(True)
    os.chdir(work)
    dialog._folder.setText(export.name)
    dialog._stem.setText("ct_labels")
    window.wait(0.3)
    dialog.grab().save(str(pictures / "review-8-export.png"))
    dialog._go.click()
    window.until(lambda: "Exported" in dialog.findChild(QLabel, "export_status").text(), 300)
    print(dialog.findChild(QLabel, "export_status").text(), flush=True)
    labels = layer.data.copy()
    dialog.close()
    reopen(window, export, labels)
    window.viewer.close()


def third(work: Path, pictures: Path) -> None:
    shutil.rmtree(work / "sessions")  # of the other two parts
    window = Window(pictures)
    same_shape(window, work)
    copy, kept = backup(window)
    range_left_on(window, copy, kept)
    restore_in_review(window)
    close_in_a_run(window)


def fourth(work: Path, pictures: Path) -> None:
    shutil.rmtree(work / "sessions")
    close_in_an_export(Window(pictures), work)


def fifth(work: Path, pictures: Path) -> None:
    shutil.rmtree(work / "sessions")
    learn_an_organ(Window(pictures), work)


PARTS = {"first": first, "second": second, "third": third, "fourth": fourth, "fifth": fifth}


def reopen(window: Window, folder: Path, labels: np.ndarray) -> None:
    import highdicom
    import SimpleITK as sitk

    from napari_transunet.io.reading import read_volume

    values = [int(v) for v in np.unique(labels) if v]
    for ending in (".nii.gz", ".nrrd", ".seg.nrrd", ".mha"):
        again = read_volume(folder / f"ct_labels{ending}")
        assert np.array_equal(again.data, labels), ending
        assert again.labels is not None
        assert again.labels.names == window.review.model.names, ending
    for ending in (".nii.gz", ".nrrd", ".mha"):
        assert np.array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"ct_labels{ending}"))), labels
        )
    segmentation = read_volume(folder / "ct_labels.dcm")
    for value in values:
        assert (segmentation.data == value).sum() == (labels == value).sum()
    volume = highdicom.seg.segread(folder / "ct_labels.dcm").get_volume(combine_segments=True)
    assert (volume.array != 0).sum() == (labels != 0).sum()
    masks = list(folder.glob("ct_labels_*.nii.gz"))
    assert sum(int(read_volume(path).data.sum()) for path in masks) == (labels != 0).sum()
    assert len(list(folder.glob("*.stl"))) == len(list(folder.glob("*.ply"))) == len(values)
    table = (folder / "ct_labels.label.txt").read_text("utf-8")
    assert all(f'"{name}"' in table for name in window.review.model.names.values())
    told = json.loads((folder / "ct_labels.json").read_text("utf-8"))["provenance"]
    assert len(told["runs"]) == 2
    assert told["reviewed_slices"] == list(window.result.session.reviewed)
    print(
        f"read back: {len(list(folder.iterdir()))} files; {told['edited_by_hand']:,} voxels by hand",
        flush=True,
    )


def make_series(folder: Path, *, other: bool = False) -> None:
    """The demo's CT as a DICOM series, so that a DICOM segmentation can refer to it; `other` lies elsewhere."""
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    from napari_transunet.viewer.plugin.samples import load_real_ct

    volume = load_real_ct()
    folder.mkdir()
    study, series, frame = (generate_uid() for _ in range(3))
    geometry = volume.geometry
    direction = np.asarray(geometry.direction)
    origin = np.add(geometry.origin, [0, 0, 400.0 if other else 0.0])
    for z, plane in enumerate(volume.data[:, :, ::-1] if other else volume.data):
        dataset = pydicom.Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = (
            study,
            series,
            frame,
        )
        dataset.Modality, dataset.SeriesDescription, dataset.InstanceNumber = (
            "CT",
            "Another" if other else "Chest and abdomen",
            z + 1,
        )
        dataset.SeriesNumber, dataset.StudyID = 1, "1"
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber"):
            setattr(dataset, name, "")
        for name in ("StudyDate", "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator"):
            setattr(dataset, name, "")
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        place = origin + direction[:, 2] * geometry.spacing[0] * z
        dataset.ImagePositionPatient = [f"{v:.9g}" for v in place]
        dataset.ImageOrientationPatient = [f"{v:.9g}" for v in (*direction[:, 0], *direction[:, 1])]
        dataset.PixelSpacing = [f"{v:.9g}" for v in geometry.spacing[1:]]
        dataset.SliceThickness = f"{geometry.spacing[0]:.9g}"
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = plane.shape
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
        dataset.PixelData = np.round(plane).astype("<i2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / f"{z:03d}.dcm", enforce_file_format=True)


def make_checkpoint(path: Path) -> None:
    """Another network for the same organs: the shipped one with its last layer disturbed a little."""
    import torch

    from napari_transunet.checkpoints.loading import load_checkpoint
    from napari_transunet.checkpoints.registry import resolve_checkpoint
    from napari_transunet.checkpoints.saving import save_checkpoint

    path.parent.mkdir()
    loaded = load_checkpoint(resolve_checkpoint(CHECKPOINT))
    torch.manual_seed(0)
    with torch.no_grad():
        head = loaded.model.segmentation_head[0]
        assert isinstance(head, torch.nn.Conv2d)
        head.weight += 0.15 * head.weight.std() * torch.randn_like(head.weight)
    card = loaded.card.model_copy(update={"title": "Abdominal organs, CT, disturbed"})
    save_checkpoint(path, loaded.model, card)


def add_reference(window: Window) -> None:
    from napari_transunet.io.reading import read_volume
    from napari_transunet.viewer.layers.layers import labels_to_layer, volume_of
    from napari_transunet.viewer.plugin.samples import real_ct_mask_path, real_ct_structures_path
    from napari_transunet.volumes.labels import LabelSet
    from napari_transunet.volumes.orientation import Reorientation

    structures, mask_path = real_ct_structures_path(), real_ct_mask_path()
    assert structures is not None
    assert mask_path is not None
    with structures.open(newline="") as file:
        values = {row["structure"]: int(row["id"]) for row in csv.DictReader(file)}
    wanted = {"spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas", "aorta"}
    kept = {value: name for name, value in values.items() if name in wanted}
    reference = read_volume(mask_path)
    image, layer = window.review.model.image, window.result.layer
    volume = volume_of(image)
    mask = Reorientation.between(reference.geometry, volume.geometry.axis_codes).apply(reference.data)
    labels = np.where(np.isin(mask, list(kept)), mask, 0).astype(np.uint8)
    names = LabelSet.from_names(kept)
    data, meta, _ = labels_to_layer(labels, volume, names, "reference")
    window.viewer.add_labels(data, **meta, visible=False)
    window.viewer.layers.selection.active = layer
    window.wait(0.5)


if __name__ == "__main__":
    main()
