"""*Learn from my corrections* with a cluster chosen as the device: scheduler and worker are other processes."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed", reason="the extra cluster is not installed")

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.cluster import adapting
from napari_transunet.cluster.address import ClusterAddress
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training import adaptation
from tests.networks import as_if_learnt
from tests.viewer.review.test_adaptation import NAMES, Window, window  # noqa: F401
from tests.viewer.segment.test_cluster import Cluster, cluster  # noqa: F401


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's checkpoints: one of a variant that the worker's process knows too."""
    net = as_if_learnt(TransUNet("testing", num_classes=4, img_size=64))
    card = default_card(net, labels=NAMES, title="Three organs, CT", modality="CT", orientation="LPS")
    save_checkpoint(tmp_path / "three.safetensors", net, card)
    monkeypatch.setenv("NAPARI_TRANSUNET_CHECKPOINTS", str(tmp_path))
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("wide")
def test_it_learns_there_and_a_dying_worker_costs_nothing(
    window: Window,  # noqa: F811
    cluster: Cluster,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("it learns on this computer")

    monkeypatch.setattr(adaptation, "adapt", never)
    window.correct(1, 3, 5, 6)
    window.segment.device.show_cluster(ClusterAddress(cluster.address), choose=True)
    assert f"on a worker at {cluster.address}" in window.text("learn_from")
    before = window.layer.data.copy()

    def begin() -> None:
        window.press("learn")
        window.until(lambda: "left" in window.text("learn_status"))

    begin()
    window.press("learn_cancel")
    window.until(lambda: not window.dock.adaptation.busy and window.button("learn").isEnabled())
    assert "nothing has changed" in window.text("learn_status")

    begin()
    cluster.worker.kill()
    window.until(lambda: not window.dock.adaptation.busy and window.button("learn").isEnabled())
    assert "was lost. Nothing was learnt" in window.text("learn_status")

    cluster.worker = cluster.new_worker()
    monkeypatch.setattr(adapting, "adapt_on_cluster", partial(adapting.adapt_on_cluster, steps=2))
    window.press("learn")
    window.until(lambda: window.answered)
    assert "→" in window.text("learn_status")
    assert np.array_equal(window.layer.data, before)
    window.press("learn_use")
    window.until(lambda: window.checkpoint.name == "three-learnt.safetensors")
    window.until(lambda: not window.segment.running and not window.dock.adaptation.busy)
    assert Path(window.checkpoint).is_file()
    assert len(window.session.runs) == 2
