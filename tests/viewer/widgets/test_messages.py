"""The dock's sentences."""

import pytest

from napari_transunet.annotation.provenance import RunRecord
from napari_transunet.errors import CheckpointError
from napari_transunet.viewer.segment.run_messages import RunOutcome, RunProgress
from napari_transunet.viewer.widgets import messages as wording

RECORD = RunRecord(
    checkpoint="abdomen",
    sha256=None,
    variant="R50-ViT-Ti_16",
    pipeline="card",
    device="cpu",
    precision="bfloat16",
    date="2024-05-01T10:00:00+00:00",
    seconds=11.2,
    slices=133,
    total=133,
)
FINISHED = RunOutcome(
    kind="finished",
    done=133,
    total=133,
    first=40,
    axis=0,
    seconds=11.2,
    volumes={1: 1412.4, 2: 187.2},
    record=RECORD,
    only_this_slice=False,
)


def _outcome(**changes):
    from dataclasses import replace

    return replace(FINISHED, **changes)


def test_a_finished_run_names_time_place_and_volumes():
    sentence = wording.outcome_sentence(FINISHED, {1: "liver", 2: "spleen"})
    assert sentence == "133 slices in 11 s on the processor. Liver 1,412 mL, spleen 187 mL."


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (
            _outcome(kind="cancelled", done=61),
            "Stopped after 61 of 133 slices; the labels that are there can be edited.",
        ),
        (
            _outcome(kind="cancelled", done=61, reason="the volume was removed"),
            "Stopped after 61 of 133 slices because the volume was removed.",
        ),
        (_outcome(kind="cancelled", done=0), "Stopped before the first slice."),
        (_outcome(kind="failed", done=0, error=CheckpointError("It is damaged.")), "It is damaged."),
        (_outcome(volumes={}), "133 slices in 11 s on the processor. No organ was found."),
        (
            _outcome(only_this_slice=True, done=1, total=1, seconds=0.42),
            "Slice 40 in 0.4 s on the processor. Liver, spleen.",
        ),
    ],
)
def test_every_ending_has_its_sentence(outcome, sentence):
    assert wording.outcome_sentence(outcome, {1: "liver", 2: "spleen"}) == sentence


def test_progress_says_where_it_began():
    assert wording.progress_sentence(RunProgress("segmenting", 3, 133, 40, 6.0)).endswith("from slice 40.")
    assert "Preparing the network" in wording.progress_sentence(RunProgress("loading", 0, 0, 0, None))
    into = [
        wording.progress_sentence(RunProgress("segmenting", n, 133, 0, 6.0, into="a.zarr"))
        for n in (132, 133)
    ]
    assert into[0].startswith("Segmenting from the first slice on, into a.zarr")
    assert into[1].startswith("All slices are written")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (11.2, "11 s"), (125, "2 min 5 s"), (4210, "1 h 10 min")],
)
def test_durations(seconds, text):
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (6.4, "6 s"), (9.7, "10 s"), (110, "1 min 50 s")]
)
def test_countdowns_are_whole_and_never_zero(seconds, text):
    assert wording.countdown(seconds) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [("kidney_left", "kidney left"), ("Liver", "liver"), ("IVC", "IVC"), ("Kidney L", "kidney L")],
)
def test_organs_in_running_text(name, text):
    assert wording.organ(name) == text


def test_all_organs_are_named_those_not_found_too_and_only_very_long_lists_are_cut():
    sentence = wording.outcome_sentence(
        FINISHED, {0: "background", 1: "liver", 2: "spleen", 4: "gallbladder"}
    )
    assert "Not found: gallbladder" in sentence.replace("Gallbladder", "gallbladder")
    assert "background" not in sentence
    part = wording.outcome_sentence(_outcome(done=61, total=61, whole=False), {1: "liver", 4: "gallbladder"})
    assert "allbladder" not in part
    assert "more" not in wording.organ_volumes({f"organ {n}": 10.0 * n for n in range(1, 10)})
    assert wording.organ_volumes({f"organ {n}": 10.0 * n for n in range(1, 20)}).endswith("and 3 more")


def test_how_it_was_computed_is_a_detail():
    assert "bfloat16" not in wording.outcome_sentence(FINISHED, {1: "liver"})
    assert "bfloat16" in wording.outcome_detail(FINISHED)


def test_an_unexpected_error_is_one_sentence():
    sentence = wording.error_sentence(RuntimeError("first line\nsecond line"))
    assert "\n" not in sentence
    assert "first line second line" in sentence


def test_the_line_under_a_volume_breaks_only_between_facts():
    line = wording.size_and_spacing((133, 512, 512), (2.5, 0.703125, 0.703125), "CT")
    assert line.replace("\N{NO-BREAK SPACE}", " ") == "512 × 512 × 133 · 0.70 × 0.70 × 2.5 mm · CT"
    assert line.count(" ") == 4


def test_the_voxels_of_a_microscope_have_a_size():
    line = wording.size_and_spacing((9, 20, 20), (0.002, 0.00038, 0.00038), None)
    assert "0.00038 × 0.00038 × 0.002 mm" in line.replace("\N{NO-BREAK SPACE}", " ")


def test_a_run_across_the_reviewed_slices_says_where_its_uncertainty_is():
    assert wording.across_sentence(0, 0) == ""
    assert "map" in wording.across_sentence(1, 0)


def test_what_was_restored_of_a_stopped_run_is_counted():
    assert "36 of 40" in wording.restored_sentence(36, 40)
    assert "of" not in wording.restored_sentence(40, 40)


def test_edits_from_before_a_run_are_not_told_as_made_since_it():
    assert wording.edits_sentence(1, any_label=True) == "1 voxel edited in all."
    assert wording.edits_sentence(0, any_label=True) == ""
