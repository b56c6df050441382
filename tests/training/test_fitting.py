import itertools
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.errors import FileProblem, InputError
from napari_transunet.model.variants import Variant
from napari_transunet.training.augmentation import Augmentation
from napari_transunet.training.callbacks import Progress
from napari_transunet.training.cases import Case, prepare_case
from napari_transunet.training.datasets import open_dataset
from napari_transunet.training.fitting import Outcome, fit
from napari_transunet.training.recipes import RECIPES, Recipe
from napari_transunet.volumes.volume import Volume
from tests.training.samples import (
    BRIEF,
    HYBRID,
    ON_CPU,
    PLAIN,
    STILL,
    case,
    network,
    pixelwise,
    same_weights,
)

ROOT = Path(__file__).parents[2]
FINE = Variant("fine", 4, 32, 64, 2, 1)


@pytest.fixture(scope="module")
def hippocampi(shared_data: Path) -> list[Case]:
    folder = shared_data / "data" / "hippocampus_mr"
    if not folder.is_dir():
        pytest.skip(f"the hippocampus images are not at {folder}")
    card = ModelCard(variant="R50-ViT-Ti_16", num_classes=3, img_size=(48, 48), n_skip=3, modality="MR")
    return [
        prepare_case(*one.read(), {1: 1, 2: 2}, card, name=one.name, patient=one.patient)
        for one in open_dataset(folder).cases[:3]
    ]


def middle(one: Case, count: int = 4) -> Case:
    """A few slices in the middle of a case."""
    few = slice(len(one) // 2 - count // 2, len(one) // 2 + count // 2)
    return replace(one, planes=one.planes[few], labels=one.labels[few])


@pytest.mark.parametrize("variant", [HYBRID, PLAIN], ids=lambda variant: variant.name)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_a_few_steps_on_real_cases(recipe: Recipe, variant: Variant, hippocampi: list[Case]) -> None:
    net = network(variant, 48)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    reports: list[Progress] = []
    brief = recipe.with_changes(steps=2, batch=2)

    *cases, last = map(middle, hippocampi)

    outcome = fit(net, cases, brief, validation=[last], on_progress=reports.append, **ON_CPU)

    assert (outcome.steps, outcome.cancelled, outcome.main) == (2, False, True)
    assert outcome.dice is not None
    assert 0 <= outcome.dice <= 1
    assert math.isfinite(reports[-1].loss)
    assert not net.training
    after = net.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    still = [key for key, _ in net.named_parameters() if torch.equal(before[key], after[key])]
    # A bias before a normalisation may get a gradient of zero; whole layers may not.
    assert len(still) < 0.1 * len(before), still


@pytest.mark.slow
@pytest.mark.parametrize("variant", [HYBRID, PLAIN], ids=lambda variant: variant.name)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_one_pass_over_real_cases(recipe: Recipe, variant: Variant, hippocampi: list[Case]) -> None:
    brief = recipe.with_changes(epochs=1, batch=12)
    slices = sum(map(len, hippocampi))
    outcome = fit(network(variant, 48), hippocampi, brief, **ON_CPU)
    assert outcome.steps == brief.plan(slices).steps
    assert outcome.steps * brief.batch >= slices


@pytest.mark.parametrize(
    ("variant", "size"),
    [(FINE, 16), pytest.param(HYBRID, 32, marks=pytest.mark.slow)],
    ids=lambda value: value.name if isinstance(value, Variant) else "",
)
def test_two_slices_are_learnt_by_heart(variant: Variant, size: int) -> None:
    labels = torch.zeros(2, size, size, dtype=torch.uint8)
    labels[:, size // 8 : size // 2, size // 5 : size // 2] = 1
    labels[1, size // 2 + 1 : size - 2, size // 4 : 3 * size // 4] = 2
    planes = 0.3 * torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) + 0.3 * labels
    one = Case("one", "one", planes.half(), labels)
    reached = False

    def on_best(_: nn.Module, dice: float | None) -> None:
        nonlocal reached
        reached = dice is not None and dice >= 0.95

    recipe = replace(BRIEF, steps=150, batch=2, learning_rate=3e-3, augmentation=STILL, context=1, ema=0.8)
    net = network(variant, size, dropout=0)
    outcome = fit(net, [one], recipe, validation=[one], on_best=on_best, cancelled=lambda: reached, **ON_CPU)
    assert outcome.dice is not None
    assert outcome.dice >= 0.95
    with torch.inference_mode():
        found = net(one.planes[:, None].float()).argmax(1)
    for value in (1, 2):
        both = ((found == value) & (labels == value)).sum()
        assert 2 * both / ((found == value).sum() + (labels == value).sum()) > 0.9


@pytest.fixture(scope="module")
def whole() -> tuple[nn.Module, Outcome]:
    """A training that was never cut off."""
    plan = TestResuming.RECIPE.plan(12)
    assert (plan.intervals, plan.interval_steps) == (6, 2)
    return TestResuming.train()


class TestResuming:
    """In float32 on the CPU, a training that is cut off and resumed is, to the last bit, one that was not."""

    RECIPE = BRIEF.with_changes(steps=12)
    CASES, VALIDATION = (case(0), case(1)), (case(2), case(3))

    @classmethod
    def train(cls, **options: object) -> tuple[nn.Module, Outcome]:
        net = pixelwise()
        net.layers.append(nn.Dropout(0.1))  # so that steps draw at random
        return net, fit(net, cls.CASES, cls.RECIPE, validation=cls.VALIDATION, **ON_CPU, **options)

    def check_resumed(self, folder: Path, whole: tuple[nn.Module, Outcome]) -> None:
        net, outcome = self.train(folder=folder, resume=True)
        assert (outcome.steps, outcome.dice, outcome.cancelled) == (12, whole[1].dice, False)
        assert same_weights(net, whole[0])

    # Four questions an interval: after each of two steps, and after each of two validation cases.
    @pytest.mark.parametrize(
        ("asked", "steps"), [(1, 1), (9, 5), (7, 4)], ids=["first interval", "mid-interval", "validation"]
    )
    def test_cancelled(
        self, asked: int, steps: int, tmp_path: Path, whole: tuple[nn.Module, Outcome]
    ) -> None:
        count = itertools.count(1)
        _, outcome = self.train(folder=tmp_path, cancelled=lambda: next(count) >= asked)
        assert (outcome.steps, outcome.cancelled) == (steps, True)
        assert (outcome.dice is None) == (asked < 4)
        assert next(count) == asked + 1, "it was asked again after it had said yes"
        self.check_resumed(tmp_path, whole)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
    @pytest.mark.long
    def test_killed(self, tmp_path: Path, whole: tuple[nn.Module, Outcome]) -> None:
        script = tmp_path / "training.py"
        script.write_text(
            textwrap.dedent("""
                import sys
                from pathlib import Path
                import torch
                from tests.training.test_fitting import TestResuming

                torch.set_num_threads(int(sys.argv[2]))
                TestResuming.train(folder=Path(sys.argv[1]), cancelled=lambda: print("step", flush=True))
                print("ended", flush=True)
            """)
        )
        folder = tmp_path / "state"
        process = subprocess.Popen(
            [sys.executable, script, folder, str(torch.get_num_threads())],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        try:
            # Two intervals and a half, and then wherever it is, be it while a file is written.
            for _ in range(9):
                assert process.stdout.readline() == "step\n"
            process.kill()
            said, _ = process.communicate(timeout=600)
        finally:
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert "ended" not in said
        assert {"last.ckpt", "best.safetensors"} <= {path.name for path in folder.iterdir()}
        self.check_resumed(folder, whole)

    def test_what_had_ended_stays(self, tmp_path: Path) -> None:
        recipe = BRIEF.with_changes(steps=4)
        first, again = pixelwise(), pixelwise()
        done = fit(first, [case()], recipe, validation=[case(1)], folder=tmp_path, **ON_CPU)
        outcome = fit(again, [case()], recipe, validation=[case(1)], folder=tmp_path, resume=True, **ON_CPU)
        assert (outcome.steps, outcome.dice) == (done.steps, done.dice)
        assert same_weights(first, again)

    def test_without_validation_too(self, tmp_path: Path) -> None:
        recipe = replace(BRIEF, ema=None)
        whole, cut, resumed = pixelwise(), pixelwise(), pixelwise()
        fit(whole, [case()], recipe, **ON_CPU)
        count = itertools.count()
        fit(cut, [case()], recipe, folder=tmp_path, cancelled=lambda: next(count) > 6, **ON_CPU)
        assert not same_weights(whole, cut)
        outcome = fit(resumed, [case()], recipe, folder=tmp_path, resume=True, **ON_CPU)
        assert (outcome.steps, outcome.dice) == (20, None)
        assert same_weights(whole, resumed)

    def test_an_earlier_training_s_best_weights_are_not_taken_for_this_one_s(self, tmp_path: Path) -> None:
        recipe = BRIEF.with_changes(steps=4)
        fit(pixelwise(), [case()], recipe, validation=[case(1)], folder=tmp_path, **ON_CPU)
        cut = pixelwise()
        fit(cut, [case(2)], recipe, validation=[case(1)], folder=tmp_path, cancelled=lambda: True, **ON_CPU)
        again = pixelwise()
        outcome = fit(
            again, [case(2)], recipe, validation=[case(1)], folder=tmp_path, resume=True,
            cancelled=lambda: True, **ON_CPU,
        )  # fmt: skip
        assert (outcome.steps, outcome.dice) == (1, None)
        assert same_weights(again, cut)

    def test_nothing_to_resume(self, tmp_path: Path) -> None:
        for folder in (tmp_path, None):
            with pytest.raises(InputError, match="no training to resume"):
                fit(pixelwise(), [case()], BRIEF, folder=folder, resume=True, **ON_CPU)

    def test_damaged_weights_are_told(self, tmp_path: Path) -> None:
        recipe = BRIEF.with_changes(steps=2)
        fit(pixelwise(), [case()], recipe, validation=[case(1)], folder=tmp_path, **ON_CPU)
        (tmp_path / "best.safetensors").write_bytes(b"damaged")
        with pytest.raises(FileProblem, match=r"best\.safetensors is damaged"):
            fit(pixelwise(), [case()], recipe, validation=[case(1)], folder=tmp_path, resume=True, **ON_CPU)


@pytest.mark.slow
def test_two_processes_learn_nearly_what_one_does(tmp_path: Path) -> None:
    """The mean of two gradients is that of the whole batch for cross-entropy, and nearly so for Dice."""
    script = tmp_path / "training.py"
    script.write_text(
        textwrap.dedent("""
            import sys
            from dataclasses import replace
            from pathlib import Path
            from safetensors.torch import save_file
            from torch import nn
            from napari_transunet.training.fitting import fit
            from napari_transunet.training.recipes import PAPER
            from tests.training.samples import ON_CPU, STILL, case, pixelwise

            folder, devices = Path(sys.argv[1]), int(sys.argv[2])
            net = pixelwise(channels=1)
            net.layers[1] = nn.Identity()  # a batch norm sees its own process's slices only
            first = {key: value.clone() for key, value in net.state_dict().items()}
            recipe = replace(PAPER, augmentation=STILL, steps=40, batch=12, learning_rate=0.1)
            outcome = fit(net, [case(0), case(1)], recipe, validation=[case(2)], devices=devices, **ON_CPU)
            if outcome.main:
                save_file(first, folder / "first.safetensors")
                save_file(net.state_dict(), folder / f"{devices}.safetensors")
        """)
    )
    for devices in (1, 2):
        subprocess.run(
            [sys.executable, script, tmp_path, str(devices)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            timeout=600,
            check=True,
        )
    first, one, two = (
        torch.cat(
            [value.flatten() for _, value in sorted(load_file(tmp_path / f"{name}.safetensors").items())]
        )
        for name in ("first", "1", "2")
    )
    assert 0 < (two - one).norm() < 0.01 * (one - first).norm()


def test_cancelling_acts_within_one_step() -> None:
    stop = threading.Event()
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        if asked == 5:
            stop.set()
        return stop.is_set()

    net = pixelwise()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    outcome = fit(net, [case()], BRIEF.with_changes(steps=500), cancelled=cancelled, **ON_CPU)
    assert (outcome.steps, outcome.cancelled, outcome.dice) == (5, True, None)
    assert not torch.equal(net.state_dict()["layers.0.weight"], before["layers.0.weight"]), (
        "it learnt nothing"
    )


def test_cancelled_in_validation_no_more_cases_are_scored() -> None:
    calls = 0

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = pixelwise()

        def forward(self, images: Tensor) -> Tensor:
            nonlocal calls
            calls += not self.training
            return self.net(images)

    outcome = fit(
        Counting(), [case()], BRIEF.with_changes(steps=1, batch=6), validation=[case(n) for n in range(1, 8)],
        cancelled=lambda: calls >= 3, **ON_CPU,
    )  # fmt: skip
    assert (outcome.cancelled, outcome.dice, calls) == (True, None, 3)


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_transunet.training.callbacks._REPORT_SECONDS", 0.0)
    reports: list[Progress] = []
    recipe = BRIEF.with_changes(steps=20)
    outcome = fit(pixelwise(), [case()], recipe, validation=[case(1)], on_progress=reports.append, **ON_CPU)
    assert [report.step for report in reports] == list(range(1, 21))
    assert {report.steps for report in reports} == {20}
    assert all(math.isfinite(report.loss) and 0 < report.loss < 5 for report in reports)
    assert [report.dice is None for report in reports] == [True] * 2 + [False] * 18
    assert all(report.best is None or report.best >= report.dice for report in reports)
    best = [report.best for report in reports if report.best is not None]
    assert best == sorted(best)
    assert outcome.dice >= best[-1]
    seconds = [report.seconds for report in reports]
    assert seconds == sorted(seconds)
    for report in reports:
        assert report.remaining == pytest.approx(report.seconds / report.step * (20 - report.step))
    assert reports[-1].remaining == 0
    assert outcome.seconds >= seconds[-1]


def test_progress_is_told_now_and_then_and_at_the_end() -> None:
    reports: list[Progress] = []
    outcome = fit(pixelwise(), [case()], BRIEF.with_changes(steps=50), on_progress=reports.append, **ON_CPU)
    assert 1 <= len(reports) <= 2 + outcome.seconds / 0.5
    assert reports[-1].step == 50


class Fading(nn.Module):
    """Finds all of class 1 in its first validation, and less in each one after that."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("validations", torch.zeros((), dtype=torch.long))

    def forward(self, images: Tensor) -> Tensor:
        bright = images[:, images.shape[1] // 2]
        if not self.training:
            self.validations += 1
            bright = bright.clone()
            bright[:, : 8 * (int(self.validations) - 1)] = 0
        return torch.stack((0.5 + self.weight * 1e-9 - bright, bright - 0.5), 1)


def bright_case() -> Case:
    labels = torch.zeros(2, 32, 32, dtype=torch.uint8)
    labels[:, ::2] = 1
    return Case("bright", "bright", labels.half(), labels)


FADING = replace(BRIEF, steps=4, batch=2, learning_rate=1e-9, augmentation=STILL, context=1, ema=None)


def test_the_best_weights_are_kept_not_the_last(tmp_path: Path) -> None:
    told: list[tuple[int, float | None]] = []
    reports: list[Progress] = []
    net = Fading()
    outcome = fit(
        net, [bright_case()], FADING, validation=[bright_case()], folder=tmp_path, on_progress=reports.append,
        on_best=lambda best, dice: told.append((int(best.validations), dice)), **ON_CPU,
    )  # fmt: skip
    assert outcome.steps == 4
    assert outcome.dice == 1
    assert told == [(1, 1.0)]
    assert reports[-1].dice < reports[-1].best == 1
    assert net.validations == 1
    assert load_file(tmp_path / "best.safetensors")["validations"] == 1


def test_a_network_that_was_loaded_to_predict_trains_as_any_other() -> None:
    net = network(FINE, 16).eval()
    norm = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d))

    fit(net, [case(size=16)], replace(BRIEF, steps=2, batch=2, ema=None), **ON_CPU)

    assert norm.num_batches_tracked == 2
    assert not net.training


def test_patience_ends_a_training_that_gets_no_better() -> None:
    recipe = FADING.with_changes(steps=50, patience=2)
    outcome = fit(Fading(), [bright_case()], recipe, validation=[bright_case()], **ON_CPU)
    assert (outcome.steps, outcome.dice, outcome.cancelled) == (3 * recipe.plan(2).interval_steps, 1, False)


def test_patience_waits_for_a_validation_that_never_came() -> None:
    recipe = FADING.with_changes(patience=1)
    outcome = fit(
        Fading(), [bright_case()], recipe, validation=[bright_case()], cancelled=lambda: True, **ON_CPU
    )
    assert (outcome.cancelled, outcome.dice) == (True, None)


class Damaging(Augmentation):
    """Views that hold what no image may."""

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images * math.inf, labels


@pytest.mark.parametrize("changes", [{"learning_rate": 1e20}, {"augmentation": Damaging()}], ids=str)
def test_a_loss_that_is_not_finite_ends_the_training_with_a_sentence(changes: dict, tmp_path: Path) -> None:
    recipe = BRIEF.with_changes(steps=40, **changes)
    with pytest.raises(InputError, match=r"The loss is not finite at step \d+, .* lower learning rate than"):
        fit(network(), [case()], recipe, validation=[case(1)], **ON_CPU)


def test_a_problem_of_the_listener_ends_the_training() -> None:
    def on_best(*_: object) -> None:
        raise FileProblem("The disk is full.")

    with pytest.raises(FileProblem, match="disk is full"):
        fit(pixelwise(), [case()], BRIEF, validation=[case(1)], on_best=on_best, **ON_CPU)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_the_caller_s_and_is_heard_afterwards(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)
    try:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                fit(
                    pixelwise(),
                    [case()],
                    BRIEF,
                    cancelled=lambda: os.kill(os.getpid(), number),
                    **ON_CPU,
                )
            assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_arrays_are_trained_on_in_silence(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """As a window does that fine-tunes: any network, volumes from memory, nothing on the console."""
    card = ModelCard(
        variant="testing",
        num_classes=2,
        img_size=(32, 32),
        n_skip=0,
        modality="CT",
        window=(0, 100),
        context=3,
    )
    labels = np.zeros((5, 20, 24), np.uint8)
    labels[1:4, 5:12, 6:18] = 9
    image = 80 * (labels > 0) + np.random.default_rng(0).integers(0, 20, labels.shape)
    one = prepare_case(
        Volume.from_array(image.astype(np.int16)),
        Volume.from_array(labels),
        {9: 1}, card, name="mine", patient="me",
    )  # fmt: skip
    reports: list[Progress] = []
    recipe = BRIEF.with_changes(steps=150, learning_rate=0.02)
    outcome = fit(
        pixelwise(classes=2),
        [one],
        recipe,
        validation=[one],
        folder=tmp_path,
        on_progress=reports.append,
        **ON_CPU,
    )
    assert outcome.dice > 0.9
    assert reports
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("width", [1, 3])
def test_a_network_may_take_one_channel(width: int) -> None:
    recipe = BRIEF.with_changes(steps=2, context=width)
    assert fit(pixelwise(channels=width), [case()], recipe, validation=[case(1)], **ON_CPU).steps == 2


def test_bfloat16_trains_float32_weights() -> None:
    net = pixelwise()
    fit(net, [case()], BRIEF.with_changes(steps=2), device="cpu", precision="bfloat16")
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "tpu"}, "Unknown device 'tpu'"),
        ({"device": "cpu", "precision": "float16"}, "float16 is for GPUs"),
    ],
)
def test_devices_that_are_not_here(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fit(pixelwise(), [case()], BRIEF, **options)


def test_no_cases_are_told() -> None:
    with pytest.raises(InputError, match="no cases to train on"):
        fit(pixelwise(), [], BRIEF, **ON_CPU)


def test_more_processes_than_slices_in_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match="batch of 2 slices cannot be shared among 4"):
        fit(pixelwise(), [case()], replace(BRIEF, batch=2), devices=2, nodes=2, **ON_CPU)


def test_without_lightning_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(InputError, match=r"pip install 'napari-transunet\[train\]'"):
        fit(pixelwise(), [case()], BRIEF, **ON_CPU)


def test_seeds_make_trainings_differ_and_the_same_seed_does_not() -> None:
    nets = []
    for seed in (0, 0, 1):
        nets.append(pixelwise())
        fit(nets[-1], [case()], BRIEF.with_changes(steps=3, seed=seed), **ON_CPU)
    assert same_weights(nets[0], nets[1])
    assert not same_weights(nets[0], nets[2])
