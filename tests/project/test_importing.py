"""Labels of other tools: files, folders of masks, names, and what they are refused for."""

import json
from dataclasses import replace

import numpy as np
import pytest

from napari_transunet.errors import InputError
from napari_transunet.export.writing import ExportRequest, export
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_labels
from napari_transunet.project.agreement import give_to_readers
from napari_transunet.project.case_labels import load_labels, save_labels
from napari_transunet.project.importing import import_predictions, names_from
from napari_transunet.project.project import Project
from napari_transunet.project.segmenting import segment_project, tasks_due
from napari_transunet.volumes.labels import LabelSet
from tests.cli.conftest import write_image
from tests.io.dicom.test_seg_writing import _series

CPU = PredictorOptions(device="cpu", backend="torch", precision="float32", batch_size=2)
SHAPE = (5, 40, 36)


def liver(slices):
    labels = np.zeros(SHAPE, np.uint8)
    labels[slices] = 5
    return labels


@pytest.fixture
def predictions(tmp_path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    write_image(folder / "case_0.nii.gz", liver(slice(0, 3)))
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "Liver": 5}}))
    return folder


def test_a_case_starts_from_labels_with_the_names_of_nnunet_s_dataset(project, predictions):
    found = import_predictions(project, predictions, tool="nnU-Net")
    (case,) = found.cases
    assert found.left_out == []
    assert (case.name, case.status, case.run.source, case.run.name) == (
        "case_0",
        "segmented",
        "imported",
        "nnU-Net",
    )
    labels = load_labels(project, case)
    assert (labels.labels == liver(slice(0, 3))).all()
    assert labels.session.edited_voxels(labels.labels) == 0
    assert labels.label_set.names == {5: "Liver"}
    assert case.volumes.keys() == {"Liver"}
    assert case.fingerprint  # by which it is known whether a checkpoint has learnt from it


def test_what_made_the_labels_of_an_imported_file_is_exported_with_them(project, predictions):
    path = predictions / "case_0.nii.gz"
    grid = read_volume(path)
    made = {"checkpoint": "organs", "sha256": "ab"}
    write_labels(path, grid.data, grid, {5: "Liver"}, provenance=made, overwrite=True)
    (case,) = import_predictions(project, predictions).cases
    give_to_readers(project, case.id, ["ann"])
    for one in project.cases():
        if one.has_labels:
            found = load_labels(project, one)
            told = found.session.provenance(found.labels)
            assert {key: told["opened"][key] for key in made} == made


def test_our_network_ranks_the_slices_of_imported_labels_and_leaves_them(project, predictions):
    import_predictions(project, predictions)
    outcomes = {one.name: one.state for one in segment_project(project, options=CPU)}
    assert outcomes == {"case_0": "ranked", "case_1": "segmented", "case_2": "segmented"}
    case = project.cases()[0]
    found = load_labels(project, case)
    assert (found.labels == liver(slice(0, 3))).all()
    # The network calls everything liver: it disagrees where the tool does not.
    assert found.session.uncertainty.expected_error().tolist() == [0, 0, 0, 1, 1]
    assert tasks_due(project, options=CPU) == []


def test_labels_that_come_after_ours_are_ranked_at_once(project, predictions):
    list(segment_project(project, options=CPU))
    (case,) = import_predictions(project, predictions).cases
    assert load_labels(project, case).session.uncertainty.expected_error().tolist() == [0, 0, 0, 1, 1]


def test_probabilities_beside_labels_say_where_to_look(project, predictions):
    likely = np.zeros((2, *SHAPE), np.float32)
    likely[1] = (liver(slice(0, 3)) > 0) * 0.98 + 0.01
    likely[1, 2] = 0.6
    likely[0] = 1 - likely[1]
    np.savez_compressed(predictions / "case_0.npz", probabilities=likely)
    (case,) = import_predictions(project, predictions).cases
    errors = load_labels(project, case).session.uncertainty.expected_error()
    assert errors.argmax() == 2
    assert case.uncertainty > 0
    np.savez_compressed(predictions / "case_0.npz", probabilities=likely[:, :4])
    again = import_predictions(project, predictions)
    assert "holds no probabilities of case_0.nii.gz" in again.left_out[0]


def test_a_folder_of_masks_is_one_case(project, tmp_path):
    folder = tmp_path / "totalsegmentator" / "case_1"
    folder.mkdir(parents=True)
    for name, slices in (("spleen", slice(0, 1)), ("kidney_left", slice(2, 4)), ("aorta", slice(0, 0))):
        write_image(folder / f"{name}.nii.gz", (liver(slices) > 0).astype(np.uint8))
    (case,) = import_predictions(project, folder.parent, tool="TotalSegmentator").cases
    found = load_labels(project, case)
    assert set(found.label_set.names.values()) == {"spleen", "kidney left"}
    by_name = {name: value for value, name in found.label_set.names.items()}
    assert (found.labels[0] == by_name["spleen"]).all()
    assert (found.labels[2:4] == by_name["kidney left"]).all()


@pytest.mark.parametrize(
    ("second", "why"),
    [(liver(slice(1, 3)) // 5, "overlaps kidney left in 1440 voxels"),
     (liver(slice(3, 4)) + liver(slice(3, 5)), "several labels")],
)  # fmt: skip
def test_masks_that_would_lose_voxels_are_refused(project, tmp_path, second, why):
    folder = tmp_path / "masks" / "case_1"
    folder.mkdir(parents=True)
    write_image(folder / "kidney_left.nii.gz", liver(slice(0, 2)))
    write_image(folder / "spleen.nii.gz", second)
    found = import_predictions(project, folder.parent)
    assert found.cases == []
    assert why in found.left_out[0]


def test_a_case_starts_from_one_file(project, predictions):
    write_image(predictions / "case_0_seg.nrrd", liver(slice(3, 5)))
    found = import_predictions(project, predictions)
    assert "case_0 starts from case_0.nii.gz already" in found.left_out[0]
    assert load_labels(project, found.cases[0]).labels[0, 0, 0] == 5


def test_names_that_contradict_those_in_the_file_are_refused(project, predictions):
    (predictions / "case_0.nii.gz").unlink()
    data = np.minimum(liver(slice(3, 5)), 1)
    file = predictions / "case_0.seg.nrrd"
    scan = read_volume(write_image(predictions / "grid.nii.gz", data))
    (predictions / "grid.nii.gz").unlink()
    write_labels(file, data, scan, LabelSet.from_names({1: "Liver"}))
    found = import_predictions(project, predictions, names={1: "spleen", 2: "liver"})
    assert found.cases == []
    assert "calls 1 'Liver'" in found.left_out[0]
    (case,) = import_predictions(project, predictions, names={1: "hepar"}).cases  # another word for it
    assert load_labels(project, case).label_set.names == {1: "hepar"}


def test_work_is_not_replaced(project, predictions):
    (case,) = import_predictions(project, predictions).cases
    with project.hold(case.id, "anna") as held:
        found = load_labels(project, case)
        found.labels[4, 0, 0] = 5
        save_labels(held, found, status="in review")
    again = import_predictions(project, predictions)
    assert again.cases == []
    assert "somebody worked on case_0 already" in again.left_out[0]
    assert load_labels(project, case).labels[4, 0, 0] == 5


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (np.full((6, 40, 36), 5, np.uint8), "1,440 labelled voxels lie outside of the scan's grid"),
        (np.full(SHAPE, 0.5, np.float32), "holds no labels"),
        (np.full(SHAPE, -1, np.int16), "no labels"),
        (np.full(SHAPE, 7, np.uint8), "labels 7 have no names"),
    ],
)
def test_what_is_no_labels_of_the_case_is_left_out_with_the_reason(project, predictions, data, why):
    write_image(predictions / "case_0.nii.gz", data)
    found = import_predictions(project, predictions)
    assert found.cases == []
    assert why in found.left_out[0]
    assert project.cases()[0].status == "new"


def test_labels_on_another_grid_are_left_out(project, predictions):
    write_image(predictions / "case_0.nii.gz", liver(slice(0, 3)), spacing=(2.5, 0.7, 0.9))
    found = import_predictions(project, predictions)
    assert "does not lie on the grid" in found.left_out[0]


def cut(path, labels, first, last, names=None):
    """Slices of labels of a case, where they lie."""
    grid = read_volume(write_image(path.with_name("whole.nrrd"), labels))
    path.with_name("whole.nrrd").unlink()
    origin = tuple((grid.geometry.affine_lps @ [0, 0, first, 1.0])[:3].tolist())
    part = labels[first : last + 1]
    geometry = replace(grid.geometry, shape=part.shape, origin=origin)
    write_labels(path, part, geometry, LabelSet.from_names(names or {}))


def test_labels_without_the_slices_that_are_empty_start_a_case_and_that_is_said(project, predictions):
    (predictions / "case_0.nii.gz").unlink()
    cut(predictions / "case_0.seg.nrrd", liver(slice(2, 4)), 2, 3, {5: "Liver"})
    likely = np.zeros((2, 2, 40, 36), np.float32)
    likely[1, 0], likely[1, 1], likely[0] = 0.9, 0.6, 0.1
    likely[0, 1] = 0.4
    np.savez_compressed(predictions / "case_0.npz", probabilities=likely)
    found = import_predictions(project, predictions)
    (case,) = found.cases
    labels = load_labels(project, case)
    assert (labels.labels == liver(slice(2, 4))).all()
    assert found.notes == [
        "case_0: the labels cover a part of the scan (slices 2 to 3 of 0 to 4 along z); the rest counts as background."
    ]
    assert found.notes == [f"case_0: {labels.session.provenance()['coverage']}"]
    errors = labels.session.uncertainty.expected_error().tolist()
    assert (errors[:2], errors[4], np.argmax(errors)) == ([0, 0], 0, 3)


def test_masks_may_be_cropped_each_to_its_organ(project, tmp_path):
    folder = tmp_path / "masks" / "case_1"
    folder.mkdir(parents=True)
    cut(folder / "spleen.nrrd", liver(slice(0, 1)) // 5, 0, 1)
    cut(folder / "aorta.nrrd", liver(slice(3, 5)) // 5, 3, 4)
    found = import_predictions(project, folder.parent)
    labels = load_labels(project, found.cases[0])
    assert {int(value) for value in np.unique(labels.labels[3:])} == {1}
    assert {int(value) for value in np.unique(labels.labels[1:3])} == {0}
    assert "2 of 2 masks cover a part of the scan each" in found.notes[0]


def test_labels_without_names_and_without_a_case_are_said(project, predictions):
    (predictions / "dataset.json").unlink()
    write_image(predictions / "stranger.nii.gz", liver(slice(0, 1)))
    found = import_predictions(project, predictions)
    assert "give their names with --names" in found.left_out[0]
    assert "no case is called so" in found.left_out[1]
    assert import_predictions(project, predictions, names={5: "liver"}).cases


@pytest.mark.parametrize(
    "content", ['{"1": "spleen"}', '{"labels": {"spleen": 1}}', '{"labels": {"1": "spleen"}}']
)
def test_names_are_read_in_either_form(tmp_path, content):
    path = tmp_path / "names.json"
    path.write_text(content)
    assert names_from(path) == {1: "spleen"}


def test_a_name_of_two_labels_is_refused(tmp_path):
    path = tmp_path / "names.json"
    path.write_text('{"1": "spleen", "2": "spleen"}')
    with pytest.raises(ValueError, match="name 'spleen'"):
        names_from(path)


@pytest.mark.parametrize(
    "content", ['{"labels": {"spleen": 1, "liver": 1}}', '{"1": "spleen", "01": "liver"}']
)
def test_two_names_of_one_label_are_refused(tmp_path, content):
    path = tmp_path / "names.json"
    path.write_text(content)
    with pytest.raises(InputError, match="both 'spleen' and 'liver'"):
        names_from(path)


@pytest.mark.parametrize("content", ["", "[]", '{"1": "a", "1": "b"}', '{"a": "b"}', '{"labels": []}'])
def test_a_file_without_names_is_refused(tmp_path, content):
    path = tmp_path / "names.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="names no labels"):
        names_from(path)


def test_structure_sets_are_labels_of_the_case_whose_series_they_were_drawn_on(tmp_path):
    scans, drawn = [_series(tmp_path / "scans" / name) for name in ("a", "b")], tmp_path / "out" / "drawn"
    drawn.mkdir(parents=True)
    labels = np.zeros(scans[0].data.shape, np.uint8)
    labels[2:5, 2:6, 3:8] = 3
    for name, scan in zip(("a", "b"), scans, strict=True):
        request = ExportRequest(drawn, name, ("rtstruct",))
        export(labels, scan.geometry, LabelSet.from_names({3: "liver"}), request, source=scan.source)
    project = Project.create(tmp_path / "study")
    project.add([tmp_path / "scans"])
    found = import_predictions(project, drawn)
    assert (len(found.cases), found.left_out) == (2, [])
    assert np.array_equal(load_labels(project, found.cases[0]).labels, labels)
    beside = tmp_path / "scans" / "drawn"
    beside.mkdir()
    (drawn / "a.rtstruct.dcm").rename(beside / "b.rtstruct.dcm")
    found = import_predictions(project, beside)
    assert found.cases == []
    assert "another series" in found.left_out[0]
