"""Exports of a project: every case has files of its own."""

import numpy as np
import pytest

from napari_transunet.errors import FileProblem
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.io.reading import read_volume
from napari_transunet.project.exporting import export_project
from napari_transunet.project.importing import import_predictions
from napari_transunet.project.project import Project
from napari_transunet.project.segmenting import segment_project
from tests.cli.conftest import write_image

SHAPE = (5, 40, 36)
CPU = PredictorOptions(device="cpu", backend="torch", precision="float32", batch_size=2)


def test_cases_whose_names_are_one_file_name_do_not_replace_each_other(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "scans").mkdir()
    for value, name in enumerate(("a b", "a_b", "A=B"), 1):
        image = np.random.default_rng(value).integers(-1000, 1000, SHAPE).astype(np.int16)
        write_image(tmp_path / "scans" / f"{name}.nii.gz", image)
        write_image(tmp_path / "labels" / f"{name}.nii.gz", np.full(SHAPE, value, np.uint8))
    project = Project.create(tmp_path / "study")
    project.add([tmp_path / "scans"])
    import_predictions(project, tmp_path / "labels", names={1: "one", 2: "two", 3: "three"})
    for _ in range(2):
        done = export_project(project, ["nifti"], overwrite=True)
        assert not done.left_out
        files = [path for path in done.files if path.name.endswith(".nii.gz")]
        assert len({path.name.casefold() for path in files}) == 3
        assert sorted(int(read_volume(path).data.max()) for path in files) == [1, 2, 3]


def test_an_organ_of_one_case_is_not_taken_for_another_case(tmp_path):
    for folder in ("labels", "scans"):
        (tmp_path / folder).mkdir()
    for name in ("a", "a_b"):
        write_image(tmp_path / "scans" / f"{name}.nii.gz", np.full(SHAPE, len(name), np.int16))
        write_image(tmp_path / "labels" / f"{name}.nii.gz", np.full(SHAPE, len(name), np.uint8))
    project = Project.create(tmp_path / "study")
    project.add([tmp_path / "scans"])
    import_predictions(project, tmp_path / "labels", names={1: "b", 3: "c"})
    done = export_project(project, ["nifti", "masks"], overwrite=True)
    assert not done.left_out
    files = [path for path in done.files if path.name.endswith(".nii.gz")]
    assert len(set(files)) == 4
    assert sorted(int(read_volume(path).data.max()) for path in files) == [1, 1, 1, 3]


def test_labels_of_earlier_exports_that_stay_are_named(project):
    list(segment_project(project, options=CPU))
    assert export_project(project, ["nifti"]).earlier == []
    project.exclude(project.cases()[0].id, "moved")
    folder = project.folder / "exports"
    done = export_project(project, ["nifti"], overwrite=True)
    assert done.earlier == [folder / "case_0.json"]
    assert "case_0" in done.sentence_on_earlier
    done = export_project(project, ["nifti"], statuses=("done",), overwrite=True)
    assert [path.stem for path in done.earlier] == ["case_0", "case_1", "case_2"]
    (folder / "case_0.json").write_text("{}")  # somebody else's
    assert export_project(project, ["nifti"], overwrite=True).earlier == []


def test_files_of_other_formats_are_written_anew_with_a_case_where_that_is_asked_for(project):
    list(segment_project(project, options=CPU))
    first, second, third = project.cases()
    export_project(project, ["nifti", "slicer", "masks"], only=[first.id])
    export_project(project, ["slicer"], only=[second.id])
    folder = project.folder / "exports"
    segments = folder / "case_0.seg.nrrd"
    before = segments.read_bytes() + b"worked on in another program"
    segments.write_bytes(before)
    done = export_project(project, ["nifti"], overwrite=True)
    assert [case.id for case in done.cases] == [third.id]
    assert done.other_formats == {first.id: ("slicer", "masks"), second.id: ("slicer",)}
    assert "case_0: an earlier export wrote slicer, masks, too" in done.left_out[0]
    assert segments.read_bytes() == before
    assert not (folder / "case_1.nii.gz").exists()
    done = export_project(
        project, ["nifti"], overwrite=True, earlier_formats=True, only=list(done.other_formats)
    )
    assert (len(done.cases), done.left_out) == (2, [])
    assert read_volume(segments).data.shape == SHAPE
    assert len(segments.read_bytes()) < len(before)
    assert (folder / "case_1.nii.gz").exists()
    segments.unlink()
    for mask in folder.glob("case_0_*.nii.gz"):
        mask.unlink()
    done = export_project(project, ["nifti"], overwrite=True)  # what was taken away is asked about no more
    assert first.id in [case.id for case in done.cases]
    assert list(done.other_formats) == [second.id]


def test_no_folder_takes_the_place_of_a_project_that_was_moved(tmp_path):
    project = Project.create(tmp_path / "study")
    project.folder.rename(tmp_path / "moved")
    with pytest.raises(FileProblem, match="study"):
        export_project(project, ["nifti"])
    assert not (tmp_path / "study").exists()
