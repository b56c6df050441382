"""*Open…*: reading off the GUI thread, the choice of a series, and what is said when it fails."""

import threading
import time
from itertools import pairwise

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from napari.components import ViewerModel
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from qtpy.QtCore import Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QDialogButtonBox, QLabel, QWidget

from napari_transunet import files
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.writing import write_labels, write_volume
from napari_transunet.viewer.layers.layer_record import record_of
from napari_transunet.viewer.layers.layers import add_volume, volume_of
from napari_transunet.viewer.segment import volume_loader as opening
from napari_transunet.viewer.segment.volume_loader import VolumeLoader, loader_for
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume
from tests.io.ome_zarr_samples import served, write_ome_zarr
from tests.viewer.choices import choices, rows
from tests.viewer.waiting import TIMEOUT

SHAPE = (4, 6, 8)


def write_series(folder, description: str, slices: int, modality: str = "CT") -> str:
    """A small axial series; returns its UID."""
    uid, frame = generate_uid(), generate_uid()
    for index in range(slices):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = pydicom.Dataset()
        dataset.file_meta = meta
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = uid, frame
        dataset.StudyInstanceUID = frame
        dataset.Modality, dataset.SeriesDescription = modality, description
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [-4, -3, 2.5 * index]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 2.5
        dataset.Rows, dataset.Columns = 6, 8
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = np.full((6, 8), slices * 10 + index, np.int16).tobytes()
        dataset.save_as(folder / f"{description}-{index}.dcm", enforce_file_format=True)
    return str(uid)


@pytest.fixture
def loader(qtbot):
    """*Open…* of a window, which is but an empty one here."""
    window = QWidget()
    qtbot.addWidget(window)
    return VolumeLoader(ViewerModel(), window)


@pytest.fixture
def scan(tmp_path):
    geometry = Geometry(SHAPE, (2.5, 0.7, 0.7))
    volume = Volume(np.arange(192, dtype=np.int16).reshape(SHAPE), geometry, "CT", Source(None, "test", "s"))
    return write_volume(tmp_path / "scan.nrrd", volume)


def test_file_is_read_on_another_thread_and_added_here(loader, scan, qtbot, monkeypatch):
    threads = []
    read = opening.read_wanted

    def noting(*args):
        threads.append(threading.get_ident())
        return read(*args)

    monkeypatch.setattr(opening, "read_wanted", noting)
    with qtbot.waitSignals([loader.started, loader.opened], timeout=TIMEOUT) as caught:
        loader.open_path(scan)
    layer = caught.all_signals_and_args[-1].args[0]
    assert list(loader._viewer.layers) == [layer]
    assert volume_of(layer).source.path == scan
    assert threads != [threading.get_ident()]
    assert len(threads) == 1
    assert not loader.busy


def test_window_lives_while_a_slow_file_is_read(loader, scan, qtbot, monkeypatch):
    read = opening.read_wanted
    lives = threading.Event()

    def slow(*args):
        lives.wait(30)
        return read(*args)

    def tick():
        ticks.append(time.perf_counter())
        if len(ticks) > 15:
            lives.set()

    monkeypatch.setattr(opening, "read_wanted", slow)
    ticks: list[float] = []
    timer = QTimer()
    timer.setInterval(10)
    timer.timeout.connect(tick)
    timer.start()
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT):
        loader.open_path(scan)
        loader.open_path(scan)  # a second click says so, and does not read twice
    timer.stop()
    assert lives.is_set()
    assert np.median([b - a for a, b in pairwise(ticks)]) < 0.05
    assert len(loader._viewer.layers) == 1


def test_second_request_while_reading_is_refused_in_words(loader, scan, qtbot):
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT):
        loader.open_path(scan)
        with qtbot.waitSignal(loader.failed, timeout=TIMEOUT) as caught:
            loader.open_path(scan)
    assert "still being read" in caught.args[0]


@pytest.mark.parametrize(("name", "content"), [("empty.nii", b""), ("broken.nii", b"\x5c\x01\x00\x00abc")])
def test_file_that_is_no_volume_fails_with_a_sentence(loader, tmp_path, qtbot, caplog, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with qtbot.waitSignal(loader.failed, timeout=TIMEOUT) as caught:
        loader.open_path(path)
    assert name in caught.args[0]
    assert caught.args[0].endswith(".")
    assert not loader.busy
    assert not any(record.exc_info for record in caplog.records)  # no traceback for a person's wrong file


def test_error_nobody_thought_of_becomes_a_sentence_too(loader, scan, qtbot, monkeypatch):

    def broken(*_args):
        raise RuntimeError("something unforeseen")

    monkeypatch.setattr(opening, "read_wanted", broken)
    with qtbot.waitSignal(loader.failed, timeout=TIMEOUT) as caught:
        loader.open_path(scan)
    assert "scan.nrrd" in caught.args[0]
    assert "something unforeseen" in caught.args[0]


def test_folder_with_one_series_opens_at_once(loader, tmp_path, qtbot):
    write_series(tmp_path, "abdomen", 3)
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT) as caught:
        loader.open_path(tmp_path)
    assert caught.args[0].data.shape == (3, 6, 8)
    assert loader.chooser is None


def test_several_series_are_offered_and_the_chosen_one_is_opened(loader, tmp_path, qtbot):
    write_series(tmp_path, "scout", 2)
    write_series(tmp_path, "portal venous", 5)
    with qtbot.waitSignal(loader.choice_needed, timeout=TIMEOUT):
        loader.open_path(tmp_path)
    chooser = loader.chooser
    assert not chooser.isHidden()
    assert not chooser.isModal()
    assert sorted(rows(chooser)) == [["portal venous", "CT", "5", "8 × 6"], ["scout", "CT", "2", "8 × 6"]]
    assert rows(chooser)[choices(chooser).currentRow()][0] == "portal venous"  # the most slices
    button = chooser.findChild(QDialogButtonBox).button(QDialogButtonBox.StandardButton.Open)
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT) as caught:
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)
    layer = caught.args[0]
    assert layer.data.shape == (5, 6, 8)
    assert layer.data[0, 0, 0] == 50 - 1024
    assert loader.chooser is None


def test_another_row_can_be_chosen(loader, tmp_path, qtbot):
    write_series(tmp_path, "scout", 2)
    write_series(tmp_path, "portal venous", 5)
    with qtbot.waitSignal(loader.choice_needed, timeout=TIMEOUT) as needed:
        loader.open_path(tmp_path)
    row = [info.description for info in needed.args[0].series].index("scout")
    choices(loader.chooser).selectRow(row)
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT) as caught:
        loader.chooser._accept_row()
    assert caught.args[0].data.shape == (2, 6, 8)


def test_cancelled_choice_opens_nothing(loader, tmp_path, qtbot):
    write_series(tmp_path, "one", 2)
    write_series(tmp_path, "two", 2)
    with qtbot.waitSignal(loader.choice_needed, timeout=TIMEOUT):
        loader.open_path(tmp_path)
    with qtbot.waitSignal(loader.cancelled, timeout=TIMEOUT):
        loader.chooser.reject()
    assert loader.chooser is None
    assert len(loader._viewer.layers) == 0


def press_open(loader: VolumeLoader) -> None:
    button = loader.chooser.findChild(QDialogButtonBox).button(QDialogButtonBox.StandardButton.Open)
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def test_time_points_are_offered_and_the_chosen_one_is_opened(loader, tmp_path, qtbot):
    path = tmp_path / "perfusion.nii.gz"
    values = np.arange(8 * 6 * 4 * 3, dtype=np.int16).reshape(8, 6, 4, 3)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.7, 0.8, 2.5, 1])), path)
    with qtbot.waitSignal(loader.choice_needed, timeout=TIMEOUT):
        loader.open_path(path)
    chooser = loader.chooser
    assert not chooser.isHidden()
    assert not chooser.isModal()
    assert "perfusion.nii.gz holds 3 time points" in chooser.findChild(QLabel).text()
    assert rows(chooser) == [[f"Time point {number} of 3"] for number in (1, 2, 3)]
    assert len(loader._viewer.layers) == 0
    choices(chooser).selectRow(1)
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT) as caught:
        press_open(loader)
    layer = caught.args[0]
    np.testing.assert_array_equal(layer.data, values[..., 1].T)
    assert layer.name == "perfusion, time point 2"
    assert volume_of(layer).geometry.spacing == pytest.approx((2.5, 0.8, 0.7))
    assert loader.chooser is None


def test_channel_and_time_point_are_asked_for_one_after_the_other(loader, tmp_path, qtbot):
    path = tmp_path / "cells.ome.tif"
    values = np.arange(2 * 3 * 4 * 6 * 8, dtype=np.uint16).reshape(2, 3, 4, 6, 8)
    tifffile.imwrite(path, values, metadata={"axes": "CTZYX", "Channel": {"Name": ["DAPI", "a & b"]}})
    with qtbot.waitSignal(loader.choice_needed, timeout=TIMEOUT):
        loader.open_path(path)
    assert rows(loader.chooser) == [["Channel 1 of 2: DAPI"], ["Channel 2 of 2: a & b"]]
    choices(loader.chooser).selectRow(1)
    with qtbot.waitSignal(loader.choice_needed, timeout=TIMEOUT):
        press_open(loader)
    assert rows(loader.chooser) == [[f"Time point {number} of 3"] for number in (1, 2, 3)]
    choices(loader.chooser).selectRow(2)
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT) as caught:
        press_open(loader)
    np.testing.assert_array_equal(caught.args[0].data, values[1, 2])
    assert caught.args[0].name == "cells, channel 2 (a & b), time point 3"


def test_arrays_of_an_archive_are_offered_by_name(loader, tmp_path, qtbot):
    values = np.arange(192.0).reshape(SHAPE)
    np.savez(tmp_path / "two.npz", before=values, after=values + 1)
    with qtbot.waitSignal(loader.choice_needed, timeout=TIMEOUT):
        loader.open_path(tmp_path / "two.npz")
    assert loader.chooser.windowTitle() == "Choose an array"
    assert rows(loader.chooser) == [["Array 1 of 2: before"], ["Array 2 of 2: after"]]
    choices(loader.chooser).selectRow(1)
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT) as caught:
        press_open(loader)
    np.testing.assert_array_equal(caught.args[0].data, values + 1)


def test_header_that_claims_very_many_time_points_makes_no_endless_list(loader):
    assert loader.offer("huge.nii", SeveralVolumesError("", "time", 10**15, "time point"))
    assert len(rows(loader.chooser)) == 5000
    assert "first 5,000 are listed" in loader.chooser.findChild(QLabel).text()
    loader.chooser.reject()


def test_series_can_be_named_at_once(loader, tmp_path, qtbot):
    uid = write_series(tmp_path, "scout", 2)
    write_series(tmp_path, "portal venous", 5)
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT) as caught:
        loader.open_path(tmp_path, series=uid)
    assert caught.args[0].data.shape == (2, 6, 8)


def test_open_path_needs_no_dialog_and_says_errors_as_notifications(
    make_napari_viewer, scan, tmp_path, qtbot
):
    from napari.utils.notifications import notification_manager

    viewer = make_napari_viewer()
    loader = opening.loader_for(viewer)
    loader.open_path(scan)
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=TIMEOUT)
    assert loader_for(viewer) is loader
    empty = tmp_path / "empty.nii"
    empty.touch()
    before = len(notification_manager.records)
    with qtbot.waitSignal(loader.failed, timeout=TIMEOUT):
        opening.loader_for(viewer).open_path(empty)
    assert any("empty.nii" in record.message for record in notification_manager.records[before:])


def test_window_closed_while_reading_leaves_nothing_behind(make_napari_viewer, scan, qtbot, monkeypatch):
    read = opening.read_wanted
    entered, leave = threading.Event(), threading.Event()

    def slow(*args):
        entered.set()
        leave.wait(60)
        return read(*args)

    monkeypatch.setattr(opening, "read_wanted", slow)
    viewer = make_napari_viewer()
    VolumeLoader(viewer, viewer.window._qt_window).open_path(scan)
    qtbot.waitUntil(entered.is_set, timeout=TIMEOUT)
    viewer.close()
    leave.set()
    qtbot.wait(200)
    assert len(viewer.layers) == 0


def test_menu_offers_a_file_a_folder_and_labels(loader):
    assert [action.text() for action in loader.menu().actions()] == [
        "File…",
        "Folder (DICOM, OME-Zarr)…",
        "Web address (OME-Zarr)…",
        "Labels…",
    ]


def test_an_ome_zarr_opens_from_its_folder_and_from_a_web_address(loader, qtbot, tmp_path, monkeypatch):
    viewer = loader._viewer
    values = np.arange(192, dtype=np.int16).reshape(SHAPE)
    folder = write_ome_zarr(tmp_path / "scan.ome.zarr", values)
    monkeypatch.setattr(opening.QFileDialog, "getExistingDirectory", lambda *_: str(folder))
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT):
        loader.ask_folder()
    answers = ["scan.ome.zarr"]
    monkeypatch.setattr(opening.QInputDialog, "getText", lambda *_: (answers[-1], True))
    with qtbot.waitSignal(loader.failed, timeout=TIMEOUT) as refused:
        loader.ask_address()
    assert "no web address" in refused.args[0]
    with served(tmp_path) as address:
        answers.append(f" {address}/scan.ome.zarr/ ")
        with qtbot.waitSignal(loader.opened, timeout=TIMEOUT):
            loader.ask_address()
    assert [layer.name for layer in viewer.layers] == ["scan", "scan [1]"]
    for layer in viewer.layers:
        np.testing.assert_array_equal(volume_of(layer).data, values)


def test_a_label_file_without_names_opens_as_labels_of_the_image_on_whose_grid_it_lies(
    make_napari_viewer, qtbot, tmp_path
):
    viewer = make_napari_viewer()
    loader = loader_for(viewer)
    shape = (8, 10, 12)
    geometry = Geometry(shape, (2.5, 0.7, 0.7), (-3.0, -4.0, 10.0))
    wanted = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    image = add_volume(viewer, Volume(np.zeros(shape, np.int16), geometry, "CT", Source(None, "", "ct")))
    elsewhere = Geometry(shape, (2.5, 0.7, 0.7), (-3.0, -4.0, 400.0))
    add_volume(viewer, Volume(np.zeros(shape, np.int16), elsewhere, "CT", Source(None, "", "other")))
    # Stored the other way round along z, as another program may write it.
    turned = Volume(
        wanted[::-1], geometry.reoriented((0, 1, 2), (True, False, False)), None, Source(None, "", "seg")
    )
    path = write_volume(tmp_path / "seg.nii.gz", turned)
    with qtbot.waitSignal(loader.labels_opened, timeout=TIMEOUT) as told:
        loader.open_labels(path)
    (layer,) = told.args
    assert layer._type_string == "labels"
    assert np.array_equal(layer.data, wanted)
    sessions = sessions_of(viewer)
    assert sessions.image_of(sessions.result_of(layer)) is image


def test_labels_are_hashed_off_the_gui_thread(qtbot, tmp_path, monkeypatch):
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, 2:4, 3:5] = 1
    path = write_labels(
        tmp_path / "l.nii.gz", labels, Geometry(SHAPE, (2.5, 0.7, 0.7)), {1: "liver"}, provenance={"by": "me"}
    )
    hashed = []
    plain = files.sha256
    monkeypatch.setattr(
        files, "sha256", lambda one: (hashed.append((str(one), threading.current_thread())), plain(one))[1]
    )
    viewer, widget = ViewerModel(), QWidget()
    qtbot.addWidget(widget)
    loader = VolumeLoader(viewer, widget)
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT):
        loader.open_path(path)
    assert [one for one, _ in hashed] == [str(path)]
    assert hashed[0][1] is not threading.main_thread()
    assert record_of(viewer.layers[0]).opened["by"] == "me"
    # A file that is another now is hashed anew.
    write_labels(
        path,
        labels * 2,
        Geometry(SHAPE, (2.5, 0.7, 0.7)),
        {2: "spleen"},
        provenance={"by": "you"},
        overwrite=True,
    )
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT):
        loader.open_path(path)
    assert record_of(viewer.layers[1]).opened["by"] == "you"
