"""The hash of a source: the same for the same bytes, another for others, whatever the format keeps where."""

import numpy as np
import pytest

from napari_transunet.errors import FileProblem
from napari_transunet.export.source import source_hash
from napari_transunet.files import sha256
from napari_transunet.io.writing import write_volume
from napari_transunet.volumes.volume import Volume


@pytest.fixture
def volume():
    return Volume.from_array(np.arange(60, dtype=np.int16).reshape(3, 4, 5))


def test_a_whole_file_is_its_bytes(tmp_path, volume):
    path = write_volume(tmp_path / "scan.nii", volume)
    assert source_hash(path) == sha256(path)


def test_a_file_that_may_name_others_is_its_voxels_and_grid(tmp_path, volume):
    one = write_volume(tmp_path / "one.nrrd", volume)
    same = write_volume(tmp_path / "same.mha", volume)
    other = Volume.from_array(volume.data + 1)
    assert source_hash(one) == source_hash(same) != source_hash(write_volume(tmp_path / "other.mha", other))


def test_a_folder_is_its_files_and_their_names(tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series/1").write_bytes(b"a")
    (tmp_path / "series/2").write_bytes(b"b")
    before = source_hash(tmp_path / "series")
    (tmp_path / "series/2").rename(tmp_path / "series/3")
    renamed = source_hash(tmp_path / "series")
    (tmp_path / "series/3").write_bytes(b"c")
    assert len({before, renamed, source_hash(tmp_path / "series")}) == 3
    with pytest.raises(FileProblem, match="no file or folder"):
        source_hash(tmp_path / "missing")
