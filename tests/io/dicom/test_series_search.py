"""Which files of a folder make a series: copies, images that share a UID, damaged files, discs."""

import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless, generate_uid

from napari_transunet.errors import VolumeError
from napari_transunet.io.dicom.headers import read_header
from napari_transunet.io.reading import is_readable, list_series, read_volume
from tests.io.samples import ct_slice, save, series


def _hu(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return pixels.astype(np.int16) - 1024


def test_slices_that_share_a_uid_are_slices(tmp_path: Path) -> None:
    pixels = series(tmp_path, [0, 2, 4, 6], SOPInstanceUID="1.2.3.4.5")
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.data, _hu(pixels))
    assert any("SOPInstanceUID" in note for note in volume.source.notes)


@pytest.mark.parametrize("change", [{"RescaleIntercept": "-1000"}, {}])
def test_a_processed_copy_is_not_taken_for_the_original(tmp_path: Path, change: dict[str, Any]) -> None:
    pixels = series(tmp_path / "original", [0, 2, 4])
    for path in (tmp_path / "original").iterdir():
        dataset = pydicom.dcmread(path)
        if change:
            dataset.update(change)
        else:
            dataset.PixelData = (np.frombuffer(dataset.PixelData, np.uint16) + 1).tobytes()
        save(dataset, tmp_path / "processed" / path.name)
    with pytest.raises(VolumeError, match=r"original/.* and processed/.*SOPInstanceUID"):
        read_volume(tmp_path)
    np.testing.assert_array_equal(read_volume(tmp_path / "original").data, _hu(pixels))


@pytest.mark.parametrize("packed", [False, True])
def test_copies_are_left_out_and_counted(tmp_path: Path, packed: bool) -> None:
    pixels = series(tmp_path / "a", [0, 2, 4])
    for path in (tmp_path / "a").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SeriesDescription = "the same, archived"
        if packed:
            dataset.compress(RLELossless, generate_instance_uid=False)
        save(dataset, tmp_path / "b" / path.name, dataset.file_meta.TransferSyntaxUID)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.data, _hu(pixels))
    assert any(note.startswith("3 copies") for note in volume.source.notes)


@pytest.mark.parametrize("name", ["a", "z"])
def test_a_copy_that_was_cut_off_gives_way_to_the_whole_image(tmp_path: Path, name: str) -> None:
    pixels = series(tmp_path / "m", [0, 2, 4])
    path = next((tmp_path / "m").iterdir())
    (tmp_path / name).mkdir()
    (tmp_path / name / "cut.dcm").write_bytes(path.read_bytes()[:-9])
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.data, _hu(pixels))
    assert any("cut.dcm" in note for note in volume.source.notes)


def test_points_in_time_that_share_a_uid_are_asked_for(tmp_path: Path) -> None:
    for time in (1, 2):
        for z in range(2):
            dataset = ct_slice(
                np.full((4, 5), 10 * time + z, np.uint16),
                (0, 0, z),
                number=2 * time + z,
                SOPInstanceUID="1.2",
            )
            save(dataset, tmp_path / f"{time}{z}.dcm")
    assert read_volume(tmp_path, time=1).data[:, 0, 0].tolist() == [20 - 1024, 21 - 1024]


def test_images_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        series(tmp_path, [0, 2, 4], prefix=name)
    with pytest.raises(VolumeError, match="same position"):
        read_volume(tmp_path, time=0)


def test_shared_uids_of_the_cases(shared_data: Path) -> None:
    if not (shared_data / "cases" / "sop_uid_one").exists():
        pytest.skip("the cases are not here")
    assert read_volume(shared_data / "cases" / "sop_uid_one").data.shape[0] == 4
    with pytest.raises(VolumeError, match="SOPInstanceUID"):
        read_volume(shared_data / "cases" / "sop_uid_processed")


@pytest.mark.parametrize("kept", [0, 132, 150, 400])
def test_a_damaged_file_elsewhere_is_left_out_by_name(tmp_path: Path, kept: int) -> None:
    pixels = series(tmp_path, [0, 2, 4])
    series(tmp_path / "sub", [0, 2], uid="1.2.9", prefix="odd")
    path, other = sorted((tmp_path / "sub").iterdir())
    path.write_bytes(path.read_bytes()[:kept])
    other.unlink()
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.data, _hu(pixels))
    assert any(path.name in note for note in volume.source.notes)
    assert len(list_series(tmp_path)) == 1


def test_a_damaged_file_that_says_which_series_it_is_of_is_missed_there(tmp_path: Path) -> None:
    series(tmp_path, [0, 2, 4])
    last = ct_slice(np.zeros((4, 5), np.uint16), (-10, -20, 6), number=4)
    path = save(last, tmp_path / "sub" / "last.dcm")
    cut = path.read_bytes()
    path.write_bytes(cut[: cut.index(b"\x28\x00\x10\x00US")])
    with pytest.raises(VolumeError, match=r"last\.dcm ends inside its header"):
        read_volume(tmp_path)


def test_the_gap_that_a_damaged_file_leaves_is_refused_with_its_name(tmp_path: Path) -> None:
    series(tmp_path, [0, 2, 6])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "lost.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(VolumeError, match=r"1 slice is missing.*lost\.dcm"):
        read_volume(tmp_path)


def test_links_to_what_was_not_fetched_are_damage_and_pipes_are_passed_by(tmp_path: Path) -> None:
    series(tmp_path, [0, 2, 4])
    os.mkfifo(tmp_path / "pipe")
    assert read_volume(tmp_path).data.shape[0] == 3
    (tmp_path / "z.dcm").symlink_to(tmp_path / "nowhere.dcm")
    with pytest.raises(VolumeError, match=r"z\.dcm cannot be read"):
        read_volume(tmp_path)


def _directory(folder: Path, *paths: tuple[str, ...]) -> None:
    directory, records = Dataset(), []
    directory.FileSetID = ""
    for path in paths:
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", list(path)
        records.append(record)
    directory.DirectoryRecordSequence = records
    directory.file_meta = pydicom.dataset.FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    directory.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)


@pytest.mark.parametrize("name", ["", "DICOMDIR"])
def test_a_disc_is_read_past_its_directory(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    series(outside, [10, 12], uid="1.2.6")
    disc = tmp_path / "disc"
    pixels = series(disc / "PT0" / "SE0", [0, 2, 4])
    victim = next(outside.iterdir()).name
    _directory(disc, ("PT0", "SE0", "IM0"), ("..", "outside", victim), (str(outside / victim),))
    assert is_readable(disc / name)
    np.testing.assert_array_equal(read_volume(disc / name).data, _hu(pixels))
    assert len(list_series(disc)) == 1


def test_a_damaged_directory_is_in_nobodys_way(tmp_path: Path) -> None:
    pixels = series(tmp_path, [0, 2, 4])
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM\2\0")
    np.testing.assert_array_equal(read_volume(tmp_path).data, _hu(pixels))


@pytest.mark.parametrize("case", ["D13_DISC", "D13_DISC/DICOMDIR", "D13_CD"])
def test_discs_of_the_cases(shared_data: Path, case: str) -> None:
    if not (path := shared_data / "cases" / case).exists():
        pytest.skip("the cases are not here")
    volume = read_volume(path)
    assert volume.data.shape == (6, 9, 11)
    assert volume.data.min() == -1000
    assert any("SR0001" in note for note in volume.source.notes) == (case == "D13_CD")


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    series(tmp_path, [0, 2, 4])
    scout = ct_slice(np.zeros((9, 9), np.uint16), (0, 0, 0), row=(0, 1, 0), column=(0, 0, -1))
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(scout, tmp_path / "scout.dcm")
    scout.SeriesInstanceUID, scout.SOPInstanceUID = "1.2.8", generate_uid()
    save(scout, tmp_path / "other_scout.dcm")
    shot = ct_slice(np.zeros((9, 9), np.uint8), (0, 0, 0), series="1.2.7")
    shot.PhotometricInterpretation = "PALETTE COLOR"
    save(shot, tmp_path / "shot.dcm")
    notes = " ".join(read_volume(tmp_path).source.notes)
    for named in ("scout.dcm", "other_scout.dcm", "1.2.7"):
        assert named in notes


def test_threads_leave_the_filters_of_warnings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series(tmp_path, [0, 2, 4], PatientID="x" * 80)
    before = list(warnings.filters)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the filters of warnings belong to all threads")

    monkeypatch.setattr(warnings, "catch_warnings", refuse)
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda path=path: found.append(read_header(path)))
        for path in tmp_path.iterdir()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    read_volume(tmp_path)
    assert list(warnings.filters) == before
