"""The command `evaluate` with folders, chosen labels and the published code's scoring."""

import csv
import json
import math
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from napari_transunet.io.dicom.rtstruct_writing import write_rtstruct
from napari_transunet.io.pairing import label_files, paired, plain_name
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_labels
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from tests.commands import invoke
from tests.io.dicom.test_seg_writing import _series

SPACING_ZYX = (2.0, 0.5, 0.5)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    return partial(invoke, "evaluate")


def error_lines(result):
    assert result.exit_code == 2
    return [line for line in result.stderr.splitlines() if line.startswith("Error: ")]


def only_error(result):
    (line,) = error_lines(result)
    assert result.stdout == ""
    return line


def results(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout, parse_constant=pytest.fail)


def block(shift=0, *, labels=(1, 2)):
    """Label 1 of 2 x 5 x 5 voxels, moved along x, and a fixed label 2 of 2 x 2 x 2."""
    volume = np.zeros((6, 12, 16), np.uint8)
    if 1 in labels:
        volume[2:4, 3:8, 3 + shift : 8 + shift] = 1
    if 2 in labels:
        volume[0:2, 10:12, 14:16] = 2
    return volume


def write(path, data, spacing=SPACING_ZYX):
    path = Path(path)
    path.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(data)
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def folders(tmp_path):
    """Three cases: one right, one shifted by a voxel, one shifted by two that misses label 2."""
    for name, prediction in (("a", block()), ("b", block(1)), ("c", block(2, labels=(1,)))):
        write(tmp_path / "predictions" / f"{name}.nii.gz", prediction)
        write(tmp_path / "references" / f"{name}.nrrd", block())
    return "predictions", "references"


def test_folders_give_each_case_and_a_summary_of_each_label(run, folders):
    found = results(run(*folders, "--json"))

    assert [case["case"] for case in found["cases"]] == ["a", "b", "c"]
    assert found["cases"][1]["labels"]["1"]["dice"] == pytest.approx(0.8)
    assert found["cases"][1]["prediction"] == str(Path("predictions/b.nii.gz"))
    assert found["cases"][1]["spacing_mm"] == list(SPACING_ZYX)
    assert found["cases"][2]["labels"]["2"]["hd95"] == "inf"
    one, two = found["summary"]["1"], found["summary"]["2"]
    assert one["dice"]["mean"] == pytest.approx((1 + 0.8 + 0.6) / 3)
    assert one["dice"]["sd"] == pytest.approx(0.2)
    assert one["dice"]["median"] == pytest.approx(0.8)
    assert (one["dice"]["worst_case"], one["dice"]["count"]) == ("c", 3)
    assert one["hd95"]["worst"] == pytest.approx(1.0)  # two voxels of 0.5 mm
    assert (two["hd95"]["mean"], two["hd95"]["infinite"], two["hd95"]["worst"]) == (0.0, 1, "inf")
    assert found["mean"]["dice"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert found["infinite"] == {"dice": 0, "hd95": 1, "asd": 1, "nsd": 0}
    assert (found["scoring"], found["hd95_unit"], found["tolerance_mm"]) == ("standard", "mm", 2.0)
    assert found["failed"] == {}
    assert found["unmatched"] == {"predictions": [], "references": []}


def test_folders_give_a_table_and_a_csv_with_a_row_per_case_and_label(run, folders):
    result = run(*folders, "--csv", "scores.csv")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == ["3 of 3 cases scored."]
    assert "0.800 ± 0.200" in result.stdout
    assert "0.000 ± 0.000, ∞ ×1" in result.stdout
    with Path("scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["label"]) for row in rows] == [(c, n) for c in "abc" for n in "12"]
    assert float(rows[2]["dice"]) == pytest.approx(0.8)
    assert float(rows[5]["hd95"]) == math.inf
    assert "--overwrite" in only_error(run(*folders, "--csv", "scores.csv"))


def test_a_full_disk_takes_the_csv_alone(run, folders, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = run(*folders, "--csv", "scores.csv")
    assert result.exit_code == 2
    assert "0.800 ± 0.200" in result.stdout
    assert "Error: Cannot write scores.csv: No space left on device." in result.stderr.splitlines()


def test_a_label_of_some_cases_only_is_counted_in_those(run, folders):
    write("predictions/a.nii.gz", block(labels=(1,)))
    write("references/a.nrrd", block(labels=(1,)))
    found = results(run(*folders, "--json"))
    assert found["cases"][0]["labels"]["2"]["dice"] is None
    assert found["cases"][0]["mean"]["dice"] == 1.0
    assert found["summary"]["2"]["dice"]["count"] == 2


def test_chosen_labels_alone_are_scored(run, folders):
    found = results(run(*folders, "--labels", "2, 7", "--json"))
    assert list(found["summary"]) == ["2", "7"]
    assert found["summary"]["7"]["dice"]["count"] == 0
    assert found["summary"]["7"]["dice"]["mean"] is None
    assert found["mean"]["dice"] == pytest.approx(2 / 3)
    single = results(run("predictions/b.nii.gz", "references/b.nrrd", "--labels", "1", "--json"))
    assert list(single["labels"]) == ["1"]


@pytest.mark.parametrize("labels", ["", "liver", "1,,2", "0", "-1", "1;2", "1.5", "9" * 30])
def test_labels_that_are_no_values_are_refused(run, folders, labels):
    assert "--labels" in only_error(run(*folders, "--labels", labels))


@pytest.mark.parametrize("tolerance", ["-1", "much"])
def test_a_bad_tolerance_is_told_once(run, folders, tolerance):
    assert "--tolerance" in only_error(run(*folders, "--tolerance", tolerance))


def test_published_scoring_of_one_pair_says_its_unit(run, folders):
    pair = ("predictions/c.nii.gz", "references/c.nrrd")
    result = run(*pair, "--published-scoring", "--json", "--csv", "scores.csv")
    found = results(result)
    assert "voxels" in result.stderr
    assert (found["scoring"], found["hd95_unit"], found["tolerance_mm"]) == ("published", "voxels", None)
    assert found["labels"]["1"]["hd95"] == pytest.approx(2.0)
    assert (found["labels"]["2"]["dice"], found["labels"]["2"]["hd95"]) == (0, 0)
    assert found["labels"]["1"]["asd"] is found["labels"]["1"]["nsd"] is None
    with Path("scores.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert "hd95" not in row
    assert float(row["hd95_voxels"]) == pytest.approx(2.0)
    table = run(*pair, "--published-scoring").stdout
    assert "HD95 voxels" in table
    assert "mm" not in table


def test_published_scoring_of_folders_counts_what_a_case_lacks(run, folders):
    write("predictions/a.nii.gz", block(labels=(1,)))
    write("references/a.nrrd", block(labels=(1,)))  # label 2 is in neither: 0 there
    write("references/b.nrrd", block(labels=(1,)))  # only predicted: 1 there; and missed in c: 0 there
    found = results(run(*folders, "--published-scoring", "--json"))
    assert [case["labels"]["2"]["dice"] for case in found["cases"]] == [0, 1, 0]
    assert found["summary"]["2"]["dice"]["mean"] == pytest.approx(1 / 3)
    assert found["summary"]["2"]["hd95"]["mean"] == 0
    assert found["summary"]["1"]["hd95"]["mean"] == pytest.approx((0 + 1 + 2) / 3)
    assert found["hd95_unit"] == "voxels"
    assert found["mean"]["nsd"] is None
    assert "HD95 voxels" in run(*folders, "--published-scoring").stdout


def test_files_without_a_partner_are_named_and_left_out_if_asked(run, folders):
    write("predictions/new.nii.gz", block())
    Path("predictions/a.nii.gz").unlink()
    error = only_error(run(*folders))
    assert "predictions without a reference: new.nii.gz" in error
    assert "references without a prediction: a.nrrd" in error
    assert "--skip-unmatched" in error

    result = run(*folders, "--skip-unmatched", "--json")
    found = results(result)
    assert [case["case"] for case in found["cases"]] == ["b", "c"]
    assert found["unmatched"] == {
        "predictions": [str(Path("predictions/new.nii.gz"))],
        "references": [str(Path("references/a.nrrd"))],
    }
    assert "new.nii.gz" in result.stderr.splitlines()[0]


def test_folders_that_share_no_name_are_refused(run, tmp_path):
    write("predictions/a.nii.gz", block())
    write("references/b.nii.gz", block())
    assert "rename" in only_error(run("predictions", "references", "--skip-unmatched"))


def test_the_other_cases_are_scored_where_one_fails(run, folders):
    Path("predictions/a.nii.gz").write_bytes(b"")
    write("references/b.nrrd", block(), spacing=(3.0, 0.5, 0.5))
    result = run(*folders, "--json", "--csv", "scores.csv")
    first, second = error_lines(result)
    assert first == f"Error: a: {Path('predictions/a.nii.gz')}: the file is empty."
    assert second.startswith("Error: b: ")
    assert "same grid" in second
    assert result.stderr.splitlines()[-1] == "1 of 3 cases scored; failed: a, b."
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert [case["case"] for case in found["cases"]] == ["c"]
    assert list(found["failed"]) == ["a", "b"]
    assert found["summary"]["1"]["dice"]["sd"] is None
    assert Path("scores.csv").exists()
    assert "0.600" in run(*folders).stdout


@pytest.mark.parametrize(
    ("axes", "flips"), [((0, 1, 2), (False, True, True)), ((2, 0, 1), (True, False, False))]
)
def test_labels_stored_in_other_axes_are_turned_which_is_said(run, folders, axes, flips):
    straight = results(run("predictions/b.nii.gz", "references/b.nrrd", "--json"))
    volume = read_volume("predictions/b.nii.gz")
    turned = np.flip(volume.data.transpose(axes), [axis for axis in range(3) if flips[axis]])
    write_labels("turned.nii.gz", turned, volume.geometry.reoriented(axes, flips))
    result = run("turned.nii.gz", "references/b.nrrd", "--json")
    assert results(result)["labels"] == straight["labels"]
    assert "was turned" in result.stderr


def part_of(name, data, first, last):
    """Slices of labels, where they lie."""
    geometry = Geometry(data.shape, SPACING_ZYX, (10.0, -20.0, 30.0))
    origin = tuple((geometry.affine_lps @ [0, 0, first, 1.0])[:3].tolist())
    cut = data[first : last + 1]
    names = {1: "liver", 2: "spleen"}
    write_labels(name, cut, replace(geometry, shape=cut.shape, origin=origin), LabelSet.from_names(names))


def test_labels_without_the_slices_that_are_empty_are_scored_as_whole_ones(run, tmp_path):
    prediction, reference = block(1, labels=(1,)), block()
    part_of("p.nii.gz", prediction, 0, 5)
    part_of("r.nii.gz", reference, 0, 5)
    expected = results(run("p.nii.gz", "r.nii.gz", "--json"))["labels"]
    part_of("p_part.nii.gz", prediction, 2, 4)
    part_of("r_part.seg.nrrd", reference, 0, 3)
    for own, other, note in (
        (
            "p_part.nii.gz",
            "r.nii.gz",
            "the prediction covers a part of the scan (slices 2 to 4 of 0 to 5 along z)",
        ),
        (
            "p.nii.gz",
            "r_part.seg.nrrd",
            "the reference covers a part of the scan (slices 0 to 3 of 0 to 5 along z)",
        ),
        (
            "p_part.nii.gz",
            "r_part.seg.nrrd",
            "the reference covers a part of the scan (slices 0 to 3 of 0 to 4",
        ),
    ):
        result = run(own, other, "--json")
        assert results(result)["labels"] == expected
        assert f"Note: {note}" in result.stderr
        assert "the rest counts as background" in result.stderr


def test_where_a_reference_does_not_reach_and_may_have_been_cropped_nothing_counts(run, tmp_path):
    part_of("p.nii.gz", block(1), 0, 5)
    part_of("r.nii.gz", block(), 2, 5)
    result = run("p.nii.gz", "r.nii.gz", "--json")
    assert results(result)["labels"].keys() == {"1"}  # the spleen lies in slices 0 and 1
    assert "the rest is unknown, and counts for nothing" in result.stderr


def test_a_table_never_replaces_what_it_is_made_of(run, folders):
    for arguments in (folders, ("predictions/a.nii.gz", "references/a.nrrd")):
        for inputs in ("predictions/a.nii.gz", "references/a.nrrd"):
            before = Path(inputs).read_bytes()
            assert "is an input" in only_error(run(*arguments, "--csv", inputs, "--overwrite"))
            assert Path(inputs).read_bytes() == before
    Path("tables").mkdir()
    assert "is a folder" in only_error(run(*folders, "--csv", "tables", "--overwrite"))


def test_negative_labels_are_refused(run, folders):
    write("predictions/a.nii.gz", -block().astype(np.int16))
    assert "holds -2" in error_lines(run(*folders))[0]


def test_a_case_that_holds_no_labels_fails_alone(run, folders):
    write("predictions/a.nii.gz", np.full((6, 12, 16), 0.5, np.float32))
    result = run(*folders)
    assert "whole numbers" in error_lines(result)[0]
    assert "0.600" in result.stdout


def test_nothing_is_written_where_every_case_fails(run, folders):
    for name in "abc":
        Path(f"predictions/{name}.nii.gz").write_bytes(b"")
    result = run(*folders, "--json", "--csv", "scores.csv")
    assert len(error_lines(result)) == 3
    assert result.stdout == ""
    assert not Path("scores.csv").exists()


def test_a_folder_and_a_file_are_no_pair(run, folders):
    for pair in ((folders[0], "references/a.nrrd"), ("predictions/a.nii.gz", folders[1])):
        assert "two files or two folders" in only_error(run(*pair))
    assert "missing" in only_error(run(folders[0], "missing"))


def test_an_empty_folder_is_named(run, folders):
    Path("empty").mkdir()
    assert "no label files in the folder empty" in only_error(run("empty", folders[1]))


def test_a_folder_of_dicom_files_is_one_volume(run, folders):
    Path("dicom").mkdir()
    Path("dicom/1.dcm").write_bytes(bytes(128) + b"DICM")
    assert label_files(Path("dicom")) == []
    assert "dicom is not; give two files" in only_error(run(folders[0], "dicom"))
    assert "dicom" in only_error(run("dicom", "dicom"))


def write_named(path, data, names):
    volume = read_volume(write(path, data))
    write_labels(path, volume.data, volume, names, overwrite=True)
    return path


def test_names_that_differ_are_no_pair_which_is_told_once(run, tmp_path):
    for folder, names in (("p", {1: "liver"}), ("r", {1: "spleen"})):
        for case in "ab":
            write_named(f"{folder}/{case}.nii.gz", block(labels=(1,)), names)
    result = run("p", "r", "--json")
    found = results(result)
    notes = [line for line in result.stderr.splitlines() if line.startswith("Note")]
    assert len(notes) == 2
    assert "liver (1)" in notes[0]
    assert "spleen (1)" in notes[1]
    assert all("--match" in note and note.endswith("(First in a.)") for note in notes)
    labels = found["cases"][0]["labels"]
    assert {key: (one["name"], one["dice"]) for key, one in labels.items()} == {
        "1": ("spleen", 0),
        "-1": ("liver", 0),
    }

    matched = results(run("p", "r", "--match", "liver=spleen", "--json"))
    assert matched["cases"][0]["labels"]["1"]["dice"] == 1
    assert matched["cases"][0]["labels"]["1"]["matched_by"] == "map"

    for case, name in (("a", "liver"), ("b", "aorta")):
        volume = read_volume(f"p/{case}.nii.gz")
        for folder in "pr":
            write_labels(f"{folder}/{case}.nii.gz", volume.data, volume, {1: name}, overwrite=True)
    assert "Note: label 1 is 'liver' in earlier cases, but 'aorta' in b." in run("p", "r").stderr


def test_organs_are_matched_by_name_whatever_their_numbers(run, tmp_path):
    own = write_named("p.nii.gz", block(), {1: "Spleen", 2: "oesophagus"})
    other = write_named(
        "r.nrrd", np.choose(block(), (0, 7, 3)).astype(np.uint8), {3: "esophagus", 7: "spleen"}
    )

    result = run(own, other, "--json", "--csv", "scores.csv")

    assert result.stderr == ""
    labels = results(result)["labels"]
    assert {
        key: (one["dice"], one["prediction_labels"], one["matched_by"]) for key, one in labels.items()
    } == {
        "3": (1, [2], "name"),
        "7": (1, [1], "name"),
    }
    with Path("scores.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["label"], row["prediction_labels"], row["reference_label"]) == ("3", "2", "3")
    assert "oesophagus (2) with" in " ".join(run(own, other).stdout.split())


def test_where_one_side_has_no_names_the_numbers_are_compared_and_it_is_said(run, tmp_path):
    own = write_named("p.nii.gz", block(), {1: "spleen", 2: "liver"})
    other = write("r.nrrd", block())

    result = run(own, other, "--json")

    (note,) = result.stderr.splitlines()
    assert "the reference names no organs" in note
    assert "spleen (1) with 1, liver (2) with 2" in note
    assert results(result)["labels"]["1"]["matched_by"] == "number"
    assert "by number" in " ".join(run(own, other).stdout.split())

    swapped = run(own, other, "--match", "liver=1", "--match", "spleen=2", "--json")
    assert swapped.stderr == ""
    assert results(swapped)["labels"]["1"] | {"dice": 0.0} == results(swapped)["labels"]["1"]


def test_names_are_the_same_however_unicode_spells_them(run, tmp_path):
    labels = np.ones((3, 8, 8), np.uint8)
    labels[1] = 2
    for name in ("a/M\u00fcller", "b/Mu\u0308ller_seg"):
        write(f"{name}.nii.gz", labels)
    about = {"labels": {"liver": 1, "spleen": 2}, "labelled": {"M\u00fcller_seg": ["liver"]}}
    Path("b/dataset.json").write_text(json.dumps(about))
    found = json.loads(run("a", "b", "--json").stdout)
    assert [{organ: score["dice"] for organ, score in case["labels"].items()} for case in found["cases"]] == [
        {"1": 1.0}
    ]


def test_several_organs_count_as_one(run, tmp_path):
    own = write("p.nii.gz", block())
    other = write("r.nrrd", (block() > 0).astype(np.uint8))
    labels = results(run(own, other, "--match", "1=1,2=1", "--json"))["labels"]
    assert (list(labels), labels["1"]["dice"]) == (["1"], 1)


@pytest.mark.parametrize("match", ["", "5", "1=1,", "=1", "liver=a=b", "1=1,1=2", "Leber=1"])
def test_a_match_that_says_nothing_is_refused(run, tmp_path, match):
    pair = (write("p.nii.gz", block()), write("r.nrrd", block()))
    error = only_error(run(*pair, "--match", match))
    assert "match" in error


def test_names_in_a_dataset_json_are_the_references(run, folders):
    Path("references/dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "body": 2, "head": 1}})
    )
    write_named("predictions/a.nii.gz", block(), {1: "body", 2: "head"})
    cases = results(run(*folders, "--json"))["cases"]
    assert cases[0]["labels"]["2"]["dice"] == 0
    assert cases[0]["labels"]["2"]["prediction_labels"] == [1]


def test_hidden_files_sidecars_tables_and_folders_are_no_cases(tmp_path):
    for name in (".a.nii.gz", "._a.nii.gz", "a.json", "scores.csv", "log.txt", "a.nii.gz", "b.mha"):
        (tmp_path / name).write_text("x")
    (tmp_path / "old.nii.gz").mkdir()
    assert [path.name for path in label_files(tmp_path)] == ["a.nii.gz", "b.mha"]


def cases(predictions, references):
    pairing = paired(map(Path, predictions), map(Path, references))
    pairs = [(pair.case, pair.prediction.name, pair.reference.name) for pair in pairing.pairs]
    return pairs, [*pairing.predictions_alone, *pairing.references_alone]


@pytest.mark.parametrize(
    "prediction",
    ["ct_0000.nii.gz", "ct labels.nrrd", "ct_labels.mha", "ct_seg.seg.nrrd", "ct_0000 labels.nii"],
)
def test_what_marks_labels_does_not_matter_for_the_name(prediction):
    assert cases([prediction], ["ct.nii.gz"]) == ([("ct", prediction, "ct.nii.gz")], [])
    assert cases(["ct.nii.gz"], [prediction])[0][0][1:] == ("ct.nii.gz", prediction)
    assert cases([prediction], ["ct_0000_seg.nii.gz"])[1] == []


def test_the_plain_stem_goes_first():
    pairs, alone = cases(["ct.nii.gz", "ct_0000.nii.gz"], ["ct.nii.gz"])
    assert pairs == [("ct", "ct.nii.gz", "ct.nii.gz")]
    assert alone == [Path("ct_0000.nii.gz")]
    pairs, alone = cases(["ct_0000.nii", "ct_0001.nii"], ["ct_0001.nii", "ct_0000.nii"])
    assert [pair[0] for pair in pairs] == ["ct_0000", "ct_0001"]
    assert alone == []
    assert plain_name("_seg") == "_seg"


def test_a_header_stands_for_its_voxels_and_labels_for_their_probabilities():
    pairs, alone = cases(["ct.hdr", "ct.img", "mr.nii.gz", "mr.npz"], ["ct.nii.gz", "mr.npz"])
    assert pairs == [("ct", "ct.hdr", "ct.nii.gz"), ("mr", "mr.nii.gz", "mr.npz")]
    assert alone == []


@pytest.mark.parametrize("twice", [("a.nrrd", "a.nii.gz"), ("a_seg.nii.gz", "a_labels.nii.gz")])
def test_two_files_of_one_case_are_refused(run, folders, twice):
    Path("predictions/a.nii.gz").unlink()
    for name in twice:
        write(Path("predictions") / name, block())
    error = only_error(run(*folders, "--skip-unmatched"))
    assert all(name in error for name in twice)


def test_unknown_voxels_of_the_reference_count_for_nothing(run, folders):
    prediction, reference = map(Path, folders)
    data = block()
    data[:, :4] = 255
    write(reference / "a.nrrd", data)
    guess = block()
    guess[:, :4] = 2
    write(prediction / "a.nii.gz", guess)

    result = run(prediction / "a.nii.gz", reference / "a.nrrd", "--json")

    assert {label["dice"] for label in results(result)["labels"].values()} == {1.0}
    assert "255" in result.stderr


def test_masks_of_0_and_255_are_scored(run, folders):
    prediction, reference = map(Path, folders)
    mask = np.where(block() > 0, 255, 0).astype(np.uint8)
    write(prediction / "a.nii.gz", mask)
    write(reference / "a.nrrd", mask)

    result = run(prediction / "a.nii.gz", reference / "a.nrrd", "--json")

    assert list(results(result)["labels"]) == ["255"]


def test_organs_that_are_not_annotated_in_a_case_are_not_scored_there(run, folders):
    prediction, reference = map(Path, folders)
    about = {"labels": {"background": 0, "body": 1, "head": 2}, "labelled": {"a": ["body"]}}
    Path("dataset.json").write_text(json.dumps(about))

    result = run(prediction, reference, "--json")

    cases = {case["case"]: case["labels"] for case in results(result)["cases"]}
    assert cases["a"]["2"]["dice"] is None
    assert cases["a"]["1"]["dice"] is not None
    assert cases["b"]["2"]["dice"] is not None


def test_a_dataset_json_that_cannot_be_used_is_said(run, folders):
    Path("dataset.json").write_text('{"labelled": 3}')

    result = run(*folders, "--json")

    assert len(results(result)["cases"]) == 3
    assert "dataset.json" in result.stderr


def test_the_series_of_a_structure_set_is_in_the_scan_or_with_the_other_file(run, folders, tmp_path):
    scan = _series(tmp_path / "scans/ct")
    drawn = np.zeros(scan.data.shape, np.uint8)
    drawn[2:5, 2:6, 3:7] = 2
    far = tmp_path / "far/away"
    far.mkdir(parents=True)
    names = LabelSet.from_names({2: "liver"})
    write_rtstruct(far / "drawn.dcm", drawn, scan.geometry, names, scan.source)
    write_labels(tmp_path / "labels.nrrd", drawn, scan, names)

    assert "drawn.dcm" in only_error(run("far/away/drawn.dcm", "labels.nrrd", "--json"))
    for pair in (("far/away/drawn.dcm", "labels.nrrd"), ("labels.nrrd", "far/away/drawn.dcm")):
        assert results(run(*pair, "--scan", "scans", "--json"))["labels"]["2"]["dice"] == 1

    # Its series lies below the folder of the other one, which is not beside its own.
    (tmp_path / "far/away/drawn.dcm").rename(tmp_path / "drawn.dcm")
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "scans").rename(tmp_path / "deep/er/scans")
    write_rtstruct(
        far / "other.dcm",
        drawn,
        scan.geometry,
        names,
        replace(scan.source, path=tmp_path / "deep/er/scans/ct"),
    )
    for pair in (("far/away/other.dcm", "drawn.dcm"), ("drawn.dcm", "far/away/other.dcm")):
        assert results(run(*pair, "--json"))["labels"]["2"]["dice"] == 1

    assert "labels.nrrd" in only_error(run("drawn.dcm", "labels.nrrd", "--scan", "labels.nrrd"))
    assert "--scan" in only_error(run(*folders, "--scan", "deep"))
