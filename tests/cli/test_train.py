"""The command `train`: status and sentences in one process, signals and several processes in real ones."""

import csv
import importlib
import json
import os
import signal
import subprocess
import sys

import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file

from napari_transunet.checkpoints.loading import load_checkpoint
from tests.commands import error_line, invoke
from tests.training.samples import write_dataset

NETWORK = ("--variant", "testing", "--img-size", "32", "--device", "cpu", "--precision", "float32")
no_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")


@pytest.fixture(autouse=True)
def _few_validations(monkeypatch):
    """Each of which is written down."""
    monkeypatch.setattr("napari_transunet.training.recipes.MIN_INTERVALS", 2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("train") / "data")


class Process:
    """A real `train`, whose stderr is read as it comes."""

    def __init__(self, *arguments, cwd):
        self.said = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "napari_transunet", "train", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            # A shell's background job ignores the signal, and so would what the tests start from there.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def until(self, begin):
        for line in self._process.stderr:
            self.said.append(line)
            if line.startswith(begin):
                return
        pytest.fail(f"it never said {begin!r} but {self.said}")

    def interrupt(self):
        self._process.send_signal(signal.SIGINT)

    def end(self):
        """Its exit status, once it has ended."""
        stdout, stderr = self._process.communicate(timeout=600)
        self.stdout = stdout
        self.said += stderr.splitlines(keepends=True)
        assert "Traceback" not in "".join(self.said), "".join(self.said)
        return self._process.returncode

    def count(self, begin):
        return sum(line.startswith(begin) for line in self.said)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--labels", "1:spleen"), "1:spleen"),
        (("--labels", "spleen=1"), "--labels takes pairs such as 1=spleen,2=liver, not 'spleen=1'"),
        (("--labels", "3=body,3"), "not '3'"),
        (("--labels", "0=air"), "--labels"),
        (("--labels", "70000=body"), "--labels"),
        (("--labels", "3=body"), "7, which no class is for"),
        (("--labels", "nobody"), "synapse-table"),
        (("--fold", "2"), "--fold takes a fold and the number of folds, such as 1/5, not '2'"),
        (("--fold", "0/5"), "no fold"),
        (("--fold", "6/5"), "no fold"),
        (("--fold", "1/7"), "ask for 2 to 6 folds"),
        (("--window", "5"), "--window takes two numbers"),
        (("--window", "a,b"), "--window takes two numbers, such as 0.5,99.5, not 'a,b'"),
        (("--window", "9,1"), "window"),
        (("--percentiles", "99,1"), "percentiles"),
        (("--spacing", "1,2,3"), "--spacing takes two numbers"),
        (("--recipe", "papers"), "choose one of default, paper"),
        (("--recipe", "paper", "--mirror"), "recipe 'paper' does not support"),
        (("--recipe", "paper", "--organs-alike"), "every slice is taken once a pass"),
        (("--recipe", "paper", "--slant", "5"), "every slice is taken once a pass"),
        (("--slant", "50"), "slant must be from 0 to 45 degrees"),
        (("--variant", "R50"), "no variant 'R50'"),
        (("--img-size", "40"), "32×32 or 48×48"),
        (("--img-size", "1x2x3"), "image size"),
        (("--skips", "3"), "n_skip = 3 does not fit"),
        (("--skips", "4"), "skips"),
        (("--context", "2"), "--context must be 1 or 3"),
        (("--planes", "2"), "--planes must be 1 or 3"),
        (("--orientation", "XYZ"), "orientation"),
        (("--validation", "0.6", "--test", "0.6"), "shares for validation and test"),
        (("--patient-pattern", "("), "no regular expression"),
        (("--patient-pattern", "nobody"), "finds none in the case 'patient0'"),
        (("--split", "none.json"), "none.json"),
        (("--learning-rate", "-1"), "learning_rate must be positive"),
        (("--batch-size", "0"), "batch-size"),
        (("--channel", "4"), "channel 4"),
        (("--init", "none.safetensors"), "none.safetensors"),
        (("--device", "tpu"), "Unknown device 'tpu'"),
        (("--device", "cpu", "--precision", "float16"), "float16 is for GPUs"),
        (("--precision", "float8"), "float8"),
        (("--resume",), "There is no training to resume"),
        (("-o", "new.pth"), ".safetensors"),
        (("-o", "none/new.safetensors"), "no folder none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_options_are_one_line_and_status_2(run, dataset, tmp_path, options, words):
    result = run("train", dataset, "-o", "new.safetensors", *NETWORK, *options)
    assert words in error_line(result)
    assert result.stdout == ""
    said = [line for line in result.stderr.splitlines() if not line.startswith("Reading")]
    assert len(said) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_modality_that_nothing_tells_is_asked_for(run, tmp_path):
    root = write_dataset(tmp_path / "data", patients=2)
    (root / "dataset.json").unlink()
    command = ("train", root, "-o", "new.safetensors", *NETWORK, "--steps", "1")
    assert "say --modality" in error_line(run(*command))
    assert run(*command, "--modality", "MR").exit_code == 0
    assert load_checkpoint(tmp_path / "new.safetensors").card.modality == "MR"


@pytest.mark.parametrize("there", ["new.safetensors", "new.training"])
def test_what_exists_is_not_replaced_unasked(run, dataset, tmp_path, there):
    if there.endswith("training"):
        (tmp_path / there).mkdir()
        (tmp_path / there / "mine").write_text("mine")
    else:
        (tmp_path / there).write_text("mine")
    command = ("train", dataset, "-o", "new.safetensors", *NETWORK, "--steps", "1")
    result = run(*command)
    assert "--overwrite" in error_line(result)
    assert "Reading" not in result.stderr
    assert run(*command, "--overwrite").exit_code == 0
    assert load_checkpoint(tmp_path / "new.safetensors").card.label_names == {1: "body", 2: "head"}


def test_train_then_segment_then_evaluate(run, dataset, tmp_path):
    """What the card says of a patient is what the other commands say."""
    result = run(
        "train", dataset, "-o", "new.safetensors", *NETWORK, "--steps", "6", "--batch-size", "3", "--seed", "4",
        "--licence", "CC0-1.0", "--title", "Two organs", "--limits", "A test.", "--validation", "0.2", "--test", "0.2",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "body" in result.stdout
    assert result.stderr.splitlines()[0] == "Reading 6 cases."
    card = load_checkpoint(tmp_path / "new.safetensors").card
    assert (card.title, card.licence, card.limits, card.training["seed"]) == (
        "Two organs", "CC0-1.0", "A test.", 4,
    )  # fmt: skip
    facts = json.loads(run("inspect", "new.safetensors", "--json").stdout)
    assert facts["ok"] is True
    assert facts["card"]["split"]["test"] == list(card.split["test"])

    (patient,) = card.split["test"]
    image = dataset / "images" / f"{patient}.nii.gz"
    segmented = run(
        "segment", image, "-o", "found.nii.gz", "-c", "new.safetensors", "--device", "cpu", "--precision", "float32"
    )  # fmt: skip
    assert segmented.exit_code == 0, segmented.stderr
    labels = sitk.ReadImage(str(dataset / "labels" / f"{patient}.nii.gz"))
    classes = sitk.ChangeLabel(labels, changeMap={3: 1, 7: 2})
    sitk.WriteImage(classes, "reference.nii.gz")
    scores = json.loads(run("evaluate", "found.nii.gz", "reference.nii.gz", "--json").stdout)
    for value, name in (("1", "body"), ("2", "head")):
        assert card.scores["test"]["labels"][name]["dice"]["mean"] == pytest.approx(
            scores["labels"][value]["dice"], abs=1e-4
        )


def test_resume_with_other_options_names_what_changed(run, dataset, tmp_path):
    command = ("train", dataset, "-o", "new.safetensors", *NETWORK, "--steps", "2")
    assert run(*command).exit_code == 0
    before = (tmp_path / "new.safetensors").read_bytes()
    for options, named in (
        (("--batch-size", "5"), "recipe;"),
        (("--seed", "1"), "split and recipe;"),
        (("--resize", "pad"), "recipe and preparation;"),
        (("--labels", "3=torso,7=head"), "labels;"),
    ):
        line = error_line(run(*command, *options, "--resume"))
        assert f"was started with another {named}" in line
        assert "--overwrite" in line
    assert (tmp_path / "new.safetensors").read_bytes() == before
    assert run(*command, "--resume").exit_code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--no-half",), "The loss is not finite at step"), ((), "too large for float16")],
    ids=["float32", "float16"],
)
def test_a_training_that_diverges_ends_with_one_line(run, dataset, options, words):
    """Weights may be beyond half precision before the loss is beyond single precision."""
    result = run(
        "train", dataset, "-o", "new.safetensors", *NETWORK, "--steps", "40", "--learning-rate", "1e20", *options
    )  # fmt: skip
    assert words in error_line(result)
    assert result.stdout == ""


@no_signals
def test_being_ended_keeps_what_was_learnt_and_resume_completes_it(run, dataset, tmp_path, monkeypatch):
    """The signal comes with the first line of progress; below it comes from another process."""
    module = importlib.import_module("napari_transunet.cli.train")
    command = (
        dataset,
        "-o",
        "new.safetensors",
        *NETWORK,
        "--batch-size",
        "6",
        "--test",
        "0.2",
        "--steps",
        "24",  # a line is said once in a while, so a few steps may all be over
    )
    tell, stopped = module.say, []

    def say(text):
        tell(text)
        if text.startswith("Step ") and not stopped:
            stopped.append(text)
            signal.raise_signal(signal.SIGTERM)  # as a cluster's time limit does

    monkeypatch.setattr(module, "say", say)
    result = run("train", *command)
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr.count("Stopping after this step") == 1
    assert result.stderr.count("Stopped after ") == 1
    card = load_checkpoint(tmp_path / "new.safetensors").card
    assert "of 24, then it was stopped" in card.training["steps"]

    resumed = run("train", *command, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    card = load_checkpoint(tmp_path / "new.safetensors").card
    assert card.training["steps"] == 24
    assert card.scores["test"]["cases"] == 1


@no_signals
@pytest.mark.slow
@pytest.mark.parametrize(("begin", "times"), [("Reading", 1), ("Step ", 2)])
def test_ctrl_c_ends_with_130_at_any_time(dataset, tmp_path, begin, times):
    with Process(dataset, "-o", "new.safetensors", *NETWORK, "--steps", "5000", cwd=tmp_path) as process:
        process.until(begin)
        process.interrupt()
        if times == 2:
            process.until("Stopping after this step")
            process.interrupt()
        status = process.end()
    assert status == 130


@pytest.mark.slow
@pytest.mark.usefixtures("wide")
class TestTwoProcesses:
    """On the CPU, each with its share of every batch."""

    OPTIONS = (
        *NETWORK, "--recipe", "paper", "--steps", "12", "--batch-size", "8", "--learning-rate", "0.001",
        "--validation", "0.4", "--test", "0.2", "--no-half",
    )  # fmt: skip

    @pytest.fixture(scope="class")
    @staticmethod
    def both(dataset, tmp_path_factory):
        """Two processes, and one with the same batch."""
        folder = tmp_path_factory.mktemp("both")
        processes = {}
        for count in (1, 2):
            out = folder / f"with{count}.safetensors"
            with Process(
                dataset, "-o", out, *TestTwoProcesses.OPTIONS, "--devices", count, cwd=folder
            ) as process:
                assert process.end() == 0, process.said
            processes[count] = (process, load_checkpoint(out))
        return folder, processes

    def test_one_of_them_speaks_and_writes(self, both):
        folder, processes = both
        said = [
            [line.split()[0] for line in process.said if not line.startswith("Step")]
            for process, _ in processes.values()
        ]
        assert said[0][:3] == said[1][:3] == ["Reading", "Training", "Scoring"]
        assert len(said[0]) == len(said[1])
        assert processes[2][0].stdout.count("mean") == 1
        files = [
            sorted(
                path.relative_to(folder / f"with{count}.training").as_posix().split(".")[0]
                for path in (folder / f"with{count}.training").rglob("*")
            )
            for count in (1, 2)
        ]
        assert files[0] == files[1]
        with next(folder.glob("with2.training/log/*/metrics.csv")).open(newline="") as file:
            steps = [row["step"] for row in csv.DictReader(file) if row["val_dice"]]
        assert len(steps) == len(set(steps))

    def test_they_learn_nearly_what_one_does(self, both, dataset):
        folder, _ = both
        start, one, two = (
            load_file(path)
            for path in (
                first_weights(dataset, folder),
                folder / "with1.safetensors",
                folder / "with2.safetensors",
            )
        )
        moved, apart = [], []
        for key, first in start.items():
            if first.is_floating_point() and "running" not in key:
                moved.append((one[key] - first).flatten())
                apart.append((two[key] - one[key]).flatten())
        moved, apart = torch.cat(moved), torch.cat(apart)
        # This network learns little but how frequent the classes are; tests/training/test_fitting.py has one that does.
        assert 0 < apart.norm() < 0.05 * moved.norm()

    def test_its_card_tells_as_much(self, both):
        cards = [checkpoint.card for _, checkpoint in both[1].values()]
        assert cards[0].split == cards[1].split
        assert cards[0].training["steps"] == cards[1].training["steps"] == 12
        assert cards[1].scores["test"]["cases"] == 1

    def test_fewer_validation_cases_than_processes(self, dataset, tmp_path):
        with Process(
            dataset, "-o", "new.safetensors", *NETWORK, "--steps", "2", "--validation", "0.1", "--test", "0",
            "--devices", 2, cwd=tmp_path,
        ) as process:  # fmt: skip
            assert process.end() == 0, process.said
        assert len(load_checkpoint(tmp_path / "new.safetensors").card.split["validation"]) == 1

    def test_both_end_where_one_cannot_go_on(self, dataset, tmp_path):
        with Process(
            dataset, "-o", "new.safetensors", *NETWORK, "--steps", "40", "--learning-rate", "1e20", "--no-half",
            "--devices", 2, cwd=tmp_path,
        ) as process:  # fmt: skip
            assert process.end() == 2, process.said
        assert process.count("Error: The loss is not finite") == 1
        assert process.count("Error") == 1

    @no_signals
    def test_ctrl_c_to_the_first_stops_both(self, dataset, tmp_path):
        with Process(
            dataset, "-o", "new.safetensors", *NETWORK, "--steps", "5000", "--validation", "0.4", "--devices", 2,
            cwd=tmp_path,
        ) as process:  # fmt: skip
            process.until("Step ")
            process.interrupt()
            assert process.end() == 130, process.said
        assert process.count("Stopped after") == 1
        load_checkpoint(tmp_path / "new.safetensors")


def first_weights(dataset, folder):
    """The weights that a training of these options begins with: after one step of next to no length."""
    out = folder / "first.safetensors"
    options = [*TestTwoProcesses.OPTIONS]
    options[options.index("--steps") + 1] = "1"
    options[options.index("--learning-rate") + 1] = "1e-30"
    arguments = ["train", dataset, "-o", out, *options]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return out
