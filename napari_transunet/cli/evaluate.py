"""The command `evaluate`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_transunet.cli.cluster import ClusterOptions, cluster, cluster_options, run_units
from napari_transunet.cli.options import JsonOption, OverwriteOption, check_target, grouped, option
from napari_transunet.cli.printing import print_json, print_table
from napari_transunet.cli.reporting import INTERRUPTED, end, say
from napari_transunet.errors import USERS_ERRORS, DatasetError, InputError, sentence_of
from napari_transunet.volumes.labels import organ_key

if TYPE_CHECKING:
    from rich.table import Table

    from napari_transunet.cli.scores import ScoredCase
    from napari_transunet.io.pairing import Pair, Pairing
    from napari_transunet.metrics.file_scores import FileScores, ScoringOptions
    from napari_transunet.metrics.label_pairs import LabelPair
    from napari_transunet.training.dataset_json import Description

logger = logging.getLogger(__name__)

_PUBLISHED = (
    "Note: scored like the published TransUNet code, only for comparison with its numbers: HD95 is in voxels, and a "
    "label that is predicted but absent from the reference has Dice 1."
)


@dataclass(frozen=True)
class _Asked:
    """What is scored, how, and where the scores go."""

    prediction: Path
    reference: Path
    scan: Path | None
    tolerance: float
    labels: tuple[int, ...] | None
    published: bool
    described: Description
    match: Mapping[int | str, int | str]
    as_json: bool
    csv_file: Path | None
    overwrite: bool

    def scoring(self, reference: Path) -> ScoringOptions:
        """How the case of this reference is scored."""
        from napari_transunet.io.pairing import plain_name
        from napari_transunet.io.sidecar import stem_of
        from napari_transunet.metrics.file_scores import ScoringOptions
        from napari_transunet.training.losses import UNKNOWN

        unknown = self.described.unknown
        annotated = {plain_name(case): organs for case, organs in self.described.annotated.items()}
        return ScoringOptions(
            self.tolerance,
            self.labels,
            self.published,
            unknown,
            unknown_named=unknown != UNKNOWN,
            annotated=annotated.get(plain_name(stem_of(reference))),
            names=self.described.names,
            match=self.match,
        )

    def how(self) -> dict[str, Any]:
        """What JSON says about how the numbers came about."""
        return {
            "tolerance_mm": None if self.published else self.tolerance,
            "scoring": "published" if self.published else "standard",
            "hd95_unit": "voxels" if self.published else "mm",
        }

    def headings(self) -> dict[str, str]:
        """The metrics that a table shows, and how it calls them."""
        volumes = {"volume_ml": "mL", "reference_ml": "Ref. mL", "volume_difference_ml": "Diff. mL"}
        if self.published:
            return {"dice": "Dice", "hd95": "HD95 voxels", **volumes}
        nsd = f"NSD {self.tolerance:g} mm"
        return {"dice": "Dice", "hd95": "HD95 mm", "asd": "ASD mm", "nsd": nsd, **volumes}

    def give(
        self, cases: Iterable[ScoredCase], names: Mapping[int, str], found: Mapping[str, Any], table: Table
    ) -> None:
        """Print what was found, as JSON or the table, and then write the CSV file, for which the disk may be full."""
        from napari_transunet.cli.scores import write_csv

        if self.as_json:
            print_json({"prediction": str(self.prediction), "reference": str(self.reference), **found})
        else:
            print_table(table)
        if self.csv_file is not None:
            write_csv(self.csv_file, cases, names, published_scoring=self.published, overwrite=self.overwrite)


@grouped(on=cluster_options)
def evaluate(
    prediction: Annotated[
        Path, typer.Argument(metavar="PREDICTION", help="A label file, or a folder of label files.")
    ],
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="The reference: a label file, or a folder of them.")
    ],
    *,
    scan: Annotated[
        Path | None,
        option("FOLDER", "The DICOM series of a structure set that is compared, if it is not beside it."),
    ] = None,
    tolerance: Annotated[float, option("MM", "The surface distance tolerated by NSD.", min=0)] = 2.0,
    labels: Annotated[
        str | None, option("N,N", "Score only these label values of the reference, such as 1,2,5.")
    ] = None,
    match: Annotated[
        list[str] | None,
        option(
            "PREDICTION=REFERENCE,…",
            "Which label of the prediction corresponds to which of the reference, by value or name, such as "
            "5=1,liver=Leber; several can map to one (2=1,3=1). Can be repeated. All others are matched by name, or "
            "by number if one side has no names.",
        ),
    ] = None,
    published_scoring: Annotated[
        bool,
        option(
            None,
            "Score like the published TransUNet code, only to compare with its numbers: HD95 in voxels, not mm; "
            "Dice 1 and HD95 0 for a label only in the prediction, 0 for both for one missing from it; no ASD "
            "and no NSD.",
            "--published-scoring",
        ),
    ] = False,
    skip_unmatched: Annotated[
        bool, option(None, "With two folders, leave out files without a partner.", "--skip-unmatched")
    ] = False,
    as_json: JsonOption = False,
    csv_file: Annotated[Path | None, option("F", "Also write the table to this file.", "--csv")] = None,
    overwrite: OverwriteOption = False,
    on: ClusterOptions | None,
) -> None:
    """Score labels against a reference: Dice, surface distances in mm, volumes in mL.

    Organs are matched by name, in any spelling, or as --match says. If one side has no names, they are matched by
    number, and a note says which were compared.

    A label absent from both sides is left out of the mean. A label absent from one side has Dice 0 and infinite
    distances (in JSON: null and "inf").

    Voxels with the label 255 in the reference are unknown and are not scored, unless an organ has that value. If a
    dataset.json beside the references, or one folder above, lists the annotated organs of a case ("labelled"), only
    these are scored in it.

    With two folders, files of the same name form a case: case.nii.gz and case.nrrd, or also case_0000.nii.gz or
    case_labels.nii.gz if a name has no partner. The table then shows mean, standard deviation, median and worst case
    for each label. Infinite distances are not part of the mean but counted beside it (∞ ×2). In the mean over labels,
    each label has the same weight. If a case fails, the others are still scored, and the exit status is 2.
    """
    from napari_transunet.metrics.label_pairs import parse_match

    asked = _Asked(
        prediction,
        reference,
        scan,
        tolerance,
        _values(labels),
        published_scoring,
        _description(reference),
        parse_match(",".join(match)) if match else {},
        as_json,
        csv_file,
        overwrite,
    )
    pairing = _pairing(prediction, reference)
    _check_scan(scan, pairing)
    if csv_file is not None:
        files = (
            [file for pair in pairing.pairs for file in (pair.prediction, pair.reference)] if pairing else []
        )
        check_target(csv_file, overwrite=overwrite, inputs=[prediction, reference, *files])
    if published_scoring:
        say(_PUBLISHED)
    if pairing is None:
        _evaluate_pair(asked)
        return
    if unmatched := pairing.sentence_on_unmatched:
        if not skip_unmatched:
            raise InputError(
                f"Not every file has a partner ({unmatched}); add the others, or leave these out with --skip-unmatched."
            )
        say(f"Note: left out because of no partner: {unmatched}.")
    if not pairing.pairs:
        raise InputError(f"No file in {prediction} has the same name as one in {reference}; rename them.")
    _evaluate_cases(asked, pairing, on)


def _description(reference: Path) -> Description:
    """What a `dataset.json` beside the references, or a folder above, says of what is annotated in each case."""
    from napari_transunet.training.dataset_json import FILE_NAME, Description, read_description

    folder = reference if reference.is_dir() else reference.parent
    beside = (folder, folder.resolve().parent)
    try:
        return read_description(next((place for place in beside if (place / FILE_NAME).is_file()), folder))
    except DatasetError as error:
        say(f"Note: the annotated organs are not known: {error}")
        return Description()


def _values(text: str | None) -> tuple[int, ...] | None:
    """`1,2,5` as numbers."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 19 and int(part) > 0 for part in parts):
        raise InputError(f"--labels takes label values of at least 1, such as 1,2,5; not {text!r}.")
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
            raise InputError(f"There are no label files in the folder {folder}; give another folder.")
    folders = [path for path, found in files.items() if found]
    if not folders:
        return None
    for path in (prediction, reference):
        if path not in folders:
            raise InputError(
                f"{folders[0]} is a folder of label files, but {path} is not; give two files or two folders."
            )
    return paired(files[prediction], files[reference])


def _check_scan(scan: Path | None, pairing: Pairing | None) -> None:
    from napari_transunet.io.reading import series_folder

    if scan is None:
        return
    if pairing is not None:
        raise InputError("--scan is for a structure set, and folders of label files hold none; leave it out.")
    if series_folder(scan) is None:
        raise InputError(f"There are no DICOM files in {scan}; give the folder of the series with --scan.")


def _evaluate_pair(asked: _Asked) -> None:
    from napari_transunet.cli.scores import case_table, named
    from napari_transunet.metrics.file_scores import score_files
    from napari_transunet.metrics.segmentation_metrics import mean_scores

    scored = score_files(asked.prediction, asked.reference, asked.scoring(asked.reference), asked.scan)
    for note in scored.notes:
        say(note)
    found = {
        "spacing_mm": list(scored.spacing),
        **asked.how(),
        "labels": named(scored.scores, scored.names, scored.pairs),
        "mean": mean_scores(scored.scores),
    }
    table = case_table(scored.scores, scored.names, asked.headings(), scored.pairs)
    asked.give([(None, scored.scores, scored.pairs)], scored.names, found, table)


def _evaluate_cases(asked: _Asked, pairing: Pairing, on: ClusterOptions | None) -> None:
    from napari_transunet.cli.scores import cohort_table, named, summaries_as_json
    from napari_transunet.metrics.segmentation_metrics import mean_scores
    from napari_transunet.metrics.summary import completed, summarise

    if on is None:
        scored, failed = _score_all(pairing.pairs, asked)
    else:
        scored, failed = _score_on_cluster(pairing.pairs, asked, on)
    failures = f"; failed: {', '.join(failed)}" if failed else ""
    say(f"{len(scored)} of {len(pairing.pairs)} cases scored{failures}.")
    end(failed=not scored)
    cases = completed({case: one.scores for case, one in scored.items()}, published_scoring=asked.published)
    names = _names_of_all(scored)
    summaries = summarise(cases)
    found = {
        **asked.how(),
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
    table = cohort_table(summaries, names, asked.headings(), _compared(scored))
    asked.give(((case, scores, scored[case].pairs) for case, scores in cases.items()), names, found, table)
    end(failed=bool(failed))


def _score_all(pairs: Sequence[Pair], asked: _Asked) -> tuple[dict[str, FileScores], dict[str, str]]:
    """The scores by case, and for the cases that could not be scored the reason, which is reported at once."""
    from napari_transunet.metrics.file_scores import score_files

    scored: dict[str, FileScores] = {}
    failed: dict[str, str] = {}
    tell = _Notes()
    for number, pair in enumerate(pairs, 1):
        logger.info("Case %d of %d: %s", number, len(pairs), pair.case)
        try:
            one = score_files(pair.prediction, pair.reference, asked.scoring(pair.reference))
        except USERS_ERRORS as error:
            failed[pair.case] = sentence_of(error)
            say(f"Error: {pair.case}: {failed[pair.case]}")
            continue
        scored[pair.case] = one
        tell.of(pair.case, one)
    return scored, failed


def _score_on_cluster(
    pairs: Sequence[Pair], asked: _Asked, on: ClusterOptions
) -> tuple[dict[str, FileScores], dict[str, str]]:
    """The same, by the workers of a cluster; in the order of the pairs, whatever order they ended in."""
    from napari_transunet.cluster.batch import Finished, State
    from napari_transunet.cluster.scoring import scoring_units

    scored: dict[str, FileScores] = {}
    failed: dict[str, str] = {}
    tell = _Notes()

    def each(finished: Finished) -> None:
        case = finished.unit.name
        if finished.state is State.DONE:
            scored[case] = finished.result
            tell.of(case, finished.result)
        elif finished.state is not State.STOPPED:
            failed[case] = finished.message
            say(f"Error: {case}: {finished.message}")

    units = scoring_units(
        (pair.case, pair.prediction, pair.reference, asked.scoring(pair.reference)) for pair in pairs
    )
    with cluster(on) as client:
        interrupted = run_units(client, on, units, len(pairs), each=each)
    if interrupted:
        say(f"{len(scored)} of {len(pairs)} cases were scored before the interruption.")
        raise typer.Exit(INTERRUPTED)
    return {pair.case: scored[pair.case] for pair in pairs if pair.case in scored}, failed


class _Notes:
    """Tells what there is to note, each once: what differs does so in every case, as a rule."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def of(self, case: str, scores: FileScores) -> None:
        for note in scores.notes:
            if note not in self._told:
                self._told.add(note)
                say(f"{note} (First in {case}.)")


def _compared(scored: Mapping[str, FileScores]) -> dict[int, list[LabelPair]]:
    """The pairs of each label, in the cases that have it."""
    found: dict[int, list[LabelPair]] = {}
    for one in scored.values():
        for label, pair in one.pairs.items():
            if pair.occurs:
                found.setdefault(label, []).append(pair)
    return found


def _names_of_all(scored: Mapping[str, FileScores]) -> dict[int, str]:
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
