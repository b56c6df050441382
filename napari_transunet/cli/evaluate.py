"""The command `evaluate`."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from napari_transunet.cli.options import JsonOption, OverwriteOption, check_target, option
from napari_transunet.cli.printing import print_json, print_table
from napari_transunet.cli.reporting import BAD_INPUT, say
from napari_transunet.errors import DatasetError, InputError, VolumeError, sentence_of
from napari_transunet.volumes.labels import organ_key

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_transunet.io.pairing import Pair, Pairing
    from napari_transunet.metrics.label_pairs import LabelPair
    from napari_transunet.metrics.summary import LabelScores
    from napari_transunet.training.dataset_json import Description
    from napari_transunet.volumes.volume import Volume

logger = logging.getLogger(__name__)

_PUBLISHED = (
    "Note: scored as the published TransUNet code does, for comparison with its numbers only: HD95 is in voxels, and a "
    "label that the reference lacks has Dice 1 where it is predicted."
)


@dataclass(frozen=True)
class _Scoring:
    """How every pair is scored."""

    tolerance: float
    labels: tuple[int, ...] | None
    published: bool
    described: Description
    match: Mapping[int | str, int | str]


@dataclass(frozen=True)
class _Output:
    """Where the scores go."""

    as_json: bool
    csv_file: Path | None
    overwrite: bool


@dataclass(frozen=True)
class _Scored:
    """One pair's scores; `pairs` are the labels that were compared, `notes` what to tell about them."""

    scores: LabelScores
    pairs: Mapping[int, LabelPair]
    spacing: Sequence[float]
    notes: Sequence[str]

    @property
    def names(self) -> dict[int, str]:
        """What the files call the organs, the reference first."""
        known = {label: pair.reference_name or pair.name for label, pair in self.pairs.items()}
        return {label: name for label, name in known.items() if name}


def evaluate(
    prediction: Annotated[
        Path, typer.Argument(metavar="PREDICTION", help="A label file, or a folder of them.")
    ],
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="The label file, or the folder, to score it against.")
    ],
    tolerance: Annotated[float, option("MM", "Surface distance that counts as right in NSD.", min=0)] = 2.0,
    labels: Annotated[
        str | None, option("N,N", "Score these label values (the reference's) only, such as 1,2,5.")
    ] = None,
    match: Annotated[
        str | None,
        option(
            "PREDICTION=REFERENCE,…",
            "Which organ of the prediction is which of the reference, by value or name, such as 5=1,liver=Leber; "
            "several may be one (2=1,3=1). The others are matched by name, and by number where one side has no names.",
        ),
    ] = None,
    published_scoring: Annotated[
        bool,
        option(
            None,
            "Score as the published TransUNet code does, only to compare with its numbers: HD95 in voxels, "
            "not mm; a label that only the prediction has gets Dice 1 and HD95 0, one that it lacks gets 0 for "
            "both; no ASD, no NSD.",
            "--published-scoring",
        ),
    ] = False,
    skip_unmatched: Annotated[
        bool, option(None, "Of two folders, leave out files that have no partner.", "--skip-unmatched")
    ] = False,
    as_json: JsonOption = False,
    csv_file: Annotated[Path | None, option("F", "Write the table to this file too.", "--csv")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Score labels against a reference: Dice, surface distances in mm, volumes in mL.

    Organs are the same where their names are, however they are spelled, or where --match says so; where one side has no
    names, where their numbers are, and then a note says which were compared.

    A label absent from both is left out of the mean; absent from one it has Dice 0 and infinite distances (in JSON:
    null and "inf").

    Voxels of the label 255 in the reference are unknown and count for nothing, unless an organ has that value. Where a
    dataset.json beside the references, or a folder above, lists which organs are annotated in a case ("labelled"), the
    others are not scored in it.

    Of two folders, files of one name are a case each: case.nii.gz and case.nrrd, also case_0000.nii.gz or
    case_labels.nii.gz where a name has no partner. The table then shows, for each label, mean and standard
    deviation, median and the worst case. Infinite distances are not in the mean but counted beside it (∞ ×2), and in
    the mean over labels each label weighs the same. Where a case fails, the others are still scored, and the exit
    status is 2.
    """
    from napari_transunet.metrics.label_pairs import parse_match

    scoring = _Scoring(
        tolerance,
        _values(labels),
        published_scoring,
        _description(reference),
        {} if match is None else parse_match(match),
    )
    output = _Output(as_json, csv_file, overwrite)
    if csv_file is not None:
        check_target(csv_file, overwrite=overwrite)
    pairing = _pairing(prediction, reference)
    if published_scoring:
        say(_PUBLISHED)
    if pairing is None:
        _evaluate_pair(prediction, reference, scoring, output)
        return
    if unmatched := pairing.sentence_on_unmatched:
        if not skip_unmatched:
            raise InputError(
                f"Not every file has a partner ({unmatched}); add it, or say --skip-unmatched to leave them out."
            )
        say(f"Note: left out, {unmatched}.")
    if not pairing.pairs:
        raise InputError(f"No file in {prediction} has the name of one in {reference}; rename them.")
    _evaluate_cases(prediction, reference, pairing, scoring, output)


def _description(reference: Path) -> Description:
    """What a `dataset.json` beside the references, or a folder above, says of what is annotated in each case."""
    from napari_transunet.training.dataset_json import FILE_NAME, Description, read_description

    folder = reference if reference.is_dir() else reference.parent
    beside = (folder, folder.resolve().parent)
    try:
        return read_description(next((place for place in beside if (place / FILE_NAME).is_file()), folder))
    except DatasetError as error:
        say(f"Note: what is annotated is not known, since {error}")
        return Description()


def _values(text: str | None) -> tuple[int, ...] | None:
    """`1,2,5` as numbers."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 19 and int(part) > 0 for part in parts):
        raise InputError(f"--labels takes label values from 1 up, such as 1,2,5; not {text!r}.")
    return tuple(int(part) for part in parts)


def _pairing(prediction: Path, reference: Path) -> Pairing | None:
    """What to pair in two folders; None for two single volumes (a folder of DICOM files is one too)."""
    from napari_transunet.io.pairing import label_files, paired
    from napari_transunet.io.reading import is_readable

    if not (prediction.is_dir() or reference.is_dir()):
        return None
    files = {path: label_files(path) for path in (prediction, reference) if path.is_dir()}
    for folder, found in files.items():
        if not found and not is_readable(folder):
            raise InputError(f"There are no label files in the folder {folder}; give another.")
    folders = [path for path, found in files.items() if found]
    if not folders:
        return None
    for path in (prediction, reference):
        if path not in folders:
            raise InputError(
                f"{folders[0]} is a folder of label files, but {path} is not; give two files or two folders."
            )
    return paired(files[prediction], files[reference])


def _read(path: Path) -> Volume:
    from napari_transunet.io.reading import read_volume

    try:
        return read_volume(path)
    except VolumeError as error:
        # It begins with the file's name, which a prediction shares with its reference as a rule; the path tells more.
        error.args = (f"{path}: {str(error).removeprefix(f'{path.name}: ')}",)
        raise


def _score(prediction: Path, reference: Path, scoring: _Scoring) -> _Scored:
    from napari_transunet.io.pairing import plain_name
    from napari_transunet.io.sidecar import stem_of
    from napari_transunet.metrics.label_pairs import pair_labels
    from napari_transunet.metrics.segmentation_metrics import evaluate as score

    first, second = _read(prediction), _read(reference)
    if not first.geometry.matches(second.geometry):
        raise InputError(
            f"{prediction} and {reference} do not lie on the same grid (shape {first.geometry.shape} and "
            f"{second.geometry.shape}, spacing {_millimetres(first)} and "
            f"{_millimetres(second)} mm{_apart(first, second)}); resample one of them first."
        )
    own, true, unknown = _known(first, second, scoring.described)
    own, true = _whole(own, prediction), _whole(true, reference)
    paired = pair_labels(
        np.unique(own).tolist(),
        np.unique(true).tolist(),
        first.labels.names if first.labels else None,
        second.labels.names if second.labels else scoring.described.names,
        scoring.match,
    )
    annotated = scoring.described.annotated.get(plain_name(stem_of(reference)))
    scored = scoring.labels
    if annotated is not None:
        scored = tuple(value for value in scored or sorted(annotated) if value in annotated)
    scores = score(
        own,
        true,
        spacing=first.geometry.spacing,
        labels_to_score=scored,
        tolerance_mm=scoring.tolerance,
        published_scoring=scoring.published,
        match=paired.pairs,
    )
    notes = [*_reading_notes(first, second), *paired.notes, *unknown]
    if annotated is not None:
        notes.append("Note: only the organs that dataset.json lists as annotated in a case are scored there.")
    return _Scored(scores, {pair.label: pair for pair in paired.pairs}, first.geometry.spacing, notes)


def _whole(labels: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    from napari_transunet.volumes.label_values import whole_numbers

    try:
        return whole_numbers(labels)
    except VolumeError as error:
        raise InputError(f"{path} cannot be scored: {error}") from error


def _known(
    prediction: Volume, reference: Volume, described: Description
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], list[str]]:
    """Both labels without the voxels that the reference calls unknown, and what to tell about that.

    255, or what `dataset.json` calls unknown, is it unless an organ has that value: a named one, or the only one there
    is, as in masks of 0 and 255.
    """
    from napari_transunet.training.losses import UNKNOWN

    own, true, value = prediction.data, reference.data, described.unknown
    named = reference.labels is not None and value in reference.labels.names
    if value is None or named or not (hidden := true == value).any():
        return own, true, []
    if described.unknown == UNKNOWN and not ((true != 0) & ~hidden).any():
        return own, true, []
    note = f"Note: voxels that the reference labels {value} are unknown, and count for nothing."
    return np.where(hidden, 0, own), np.where(hidden, 0, true), [note]


def _evaluate_pair(prediction: Path, reference: Path, scoring: _Scoring, output: _Output) -> None:
    from napari_transunet.cli.scores import case_table, headings, how_scored, named, write_csv
    from napari_transunet.metrics.segmentation_metrics import mean_scores

    scored = _score(prediction, reference, scoring)
    for note in scored.notes:
        say(note)
    if output.csv_file is not None:
        write_csv(
            output.csv_file,
            [(None, scored.scores, scored.pairs)],
            scored.names,
            published_scoring=scoring.published,
            overwrite=output.overwrite,
        )
    if output.as_json:
        print_json(
            {
                "prediction": str(prediction),
                "reference": str(reference),
                "spacing_mm": list(scored.spacing),
                **how_scored(scoring.tolerance, published_scoring=scoring.published),
                "labels": named(scored.scores, scored.names, scored.pairs),
                "mean": mean_scores(scored.scores),
            }
        )
    else:
        shown = headings(scoring.tolerance, published_scoring=scoring.published)
        print_table(case_table(scored.scores, scored.names, shown, scored.pairs))


def _evaluate_cases(
    prediction: Path, reference: Path, pairing: Pairing, scoring: _Scoring, output: _Output
) -> None:
    from napari_transunet.cli.scores import (
        cohort_table,
        headings,
        how_scored,
        named,
        summaries_as_json,
        write_csv,
    )
    from napari_transunet.metrics.segmentation_metrics import mean_scores
    from napari_transunet.metrics.summary import completed, summarise

    scored, failed = _score_all(pairing.pairs, scoring)
    failures = f"; failed: {', '.join(failed)}" if failed else ""
    say(f"{len(scored)} of {len(pairing.pairs)} cases scored{failures}.")
    if not scored:
        raise typer.Exit(BAD_INPUT)
    cases = completed({case: one.scores for case, one in scored.items()}, published_scoring=scoring.published)
    names = _names_of_all(scored)
    summaries = summarise(cases)
    if output.csv_file is not None:
        write_csv(
            output.csv_file,
            [(case, scores, scored[case].pairs) for case, scores in cases.items()],
            names,
            published_scoring=scoring.published,
            overwrite=output.overwrite,
        )
    if output.as_json:
        print_json(
            {
                "prediction": str(prediction),
                "reference": str(reference),
                **how_scored(scoring.tolerance, published_scoring=scoring.published),
                "cases": [
                    {
                        "case": pair.case,
                        "prediction": str(pair.prediction),
                        "reference": str(pair.reference),
                        "spacing_mm": list(scored[pair.case].spacing),
                        "labels": named(cases[pair.case], names, scored[pair.case].pairs),
                        "mean": mean_scores(cases[pair.case]),
                    }
                    for pair in pairing.pairs
                    if pair.case in scored
                ],
                **summaries_as_json(summaries, names),
                "failed": failed,
                "unmatched": {
                    "predictions": [str(path) for path in pairing.predictions_alone],
                    "references": [str(path) for path in pairing.references_alone],
                },
            }
        )
    else:
        shown = headings(scoring.tolerance, published_scoring=scoring.published)
        print_table(cohort_table(summaries, names, shown, _compared(scored)))
    if failed:
        raise typer.Exit(BAD_INPUT)


def _score_all(pairs: Sequence[Pair], scoring: _Scoring) -> tuple[dict[str, _Scored], dict[str, str]]:
    """The scores by case, and for the cases that could not be scored the reason, which is reported at once."""
    scored: dict[str, _Scored] = {}
    failed: dict[str, str] = {}
    reported: set[str] = set()
    for number, pair in enumerate(pairs, 1):
        logger.info("Case %d of %d: %s", number, len(pairs), pair.case)
        try:
            one = _score(pair.prediction, pair.reference, scoring)
        except Exception as error:
            if (sentence := sentence_of(error)) is None:
                raise
            failed[pair.case] = sentence
            say(f"Error: {pair.case}: {sentence}")
            continue
        scored[pair.case] = one
        for note in one.notes:
            if note not in reported:  # what differs does so in every case, as a rule
                reported.add(note)
                say(f"{note} (First in {pair.case}.)")
    return scored, failed


def _compared(scored: Mapping[str, _Scored]) -> dict[int, list[LabelPair]]:
    """The pairs of each label, in the cases that have it."""
    found: dict[int, list[LabelPair]] = {}
    for one in scored.values():
        for label, pair in one.pairs.items():
            if pair.occurs:
                found.setdefault(label, []).append(pair)
    return found


def _names_of_all(scored: Mapping[str, _Scored]) -> dict[int, str]:
    """The names of the label values, as the first case that names them does; says so where another differs."""
    names: dict[int, str] = {}
    differing: set[int] = set()
    for case, one in scored.items():
        for value, name in one.names.items():
            known = names.setdefault(value, name)
            if organ_key(known) != organ_key(name) and value not in differing:
                differing.add(value)
                say(f"Note: label {value} is {known!r} in earlier cases, but {name!r} in {case}.")
    return names


def _reading_notes(prediction: Volume, reference: Volume) -> Iterator[str]:
    """What the readers had to assume; in the same words for every case, so that it is reported once."""
    for which, volume in (("prediction", prediction), ("reference", reference)):
        for note in volume.source.notes:
            yield f"Note on the {which}: {note}"


def _apart(first: Volume, second: Volume) -> str:
    apart = first.geometry.displacement(second.geometry)
    return f"; corners up to {apart:.3g} mm apart" if math.isfinite(apart) else ""


def _millimetres(volume: Volume) -> str:
    return " × ".join(f"{size:g}" for size in volume.geometry.spacing)
