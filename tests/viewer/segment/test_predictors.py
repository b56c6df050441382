"""Prepared predictors are used again, and give what fresh ones give."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from napari_transunet.checkpoints import loading
from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import FileProblem
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.inference.predictor import Predictor
from napari_transunet.viewer.segment import predictors
from napari_transunet.viewer.segment.predictors import PredictorCache, PredictorSettings
from napari_transunet.volumes.phantom import synthetic_ct
from tests.networks import small_network


def saved(path: Path, seed: int) -> Path:
    net = small_network(seed=seed)
    return save_checkpoint(path, net, default_card(net, modality="CT"), overwrite=True)


@pytest.fixture
def settings(tmp_path: Path) -> PredictorSettings:
    options = PredictorOptions(device="cpu", precision="float32")
    return PredictorSettings(saved(tmp_path / "three.safetensors", 0), options)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The paths that were loaded."""
    found: list[Any] = []

    def counted(path: Any, **options: Any) -> Any:
        found.append(path)
        return load_checkpoint(path, **options)

    monkeypatch.setattr(loading, "load_checkpoint", counted)
    return found


def test_one_predictor_serves_all_volumes_as_fresh_ones_would(
    settings: PredictorSettings, loads: list[Any]
) -> None:
    cache = PredictorCache()
    for shape, seed in (((9, 48, 56), 0), ((8, 40, 44), 1), ((9, 48, 56), 0)):
        volume = synthetic_ct(shape, seed)[0]
        fresh = Predictor(load_checkpoint(settings.checkpoint), device="cpu", precision="float32")
        labels = cache.get(replace(settings)).predictor.predict(volume)
        assert labels.any()
        assert np.array_equal(labels, fresh.predict(volume))
    assert len(loads) == 1
    assert cache.get(settings) is cache.get(replace(settings))


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"pipeline": "paper"}, {"batch_size": 2}])
def test_other_settings_read_no_file_again_and_change_no_label(
    settings: PredictorSettings, loads: list[Any], change: dict[str, Any]
) -> None:
    cache, volume = PredictorCache(1), synthetic_ct((8, 48, 56), 0)[0]
    first = cache.get(settings)
    before = first.predictor.predict(volume)
    other = cache.get(replace(settings, options=settings.options.changed(**change)))
    assert other is not first
    assert other.checkpoint is first.checkpoint
    fresh = Predictor(load_checkpoint(settings.checkpoint), settings.options, **change)
    assert np.array_equal(other.predictor.predict(volume), fresh.predict(volume))
    assert settings not in cache
    assert np.array_equal(cache.get(settings).predictor.predict(volume), before)
    assert len(loads) == 1


def test_another_input_size_needs_the_file_again(settings: PredictorSettings, loads: list[Any]) -> None:
    cache = PredictorCache()
    assert cache.get(settings).checkpoint.model.img_size == (64, 64)
    assert cache.get(replace(settings, img_size=96)).checkpoint.model.img_size == (96, 96)
    assert len(loads) == 2


def test_a_file_that_was_replaced_is_read_again(settings: PredictorSettings, loads: list[Any]) -> None:
    cache = PredictorCache()
    old = cache.get(settings)
    saved(settings.checkpoint, 1)
    os.utime(settings.checkpoint, ns=(0, 12345))
    assert settings not in cache
    new = cache.get(settings)
    assert new.checkpoint.sha256 != old.checkpoint.sha256
    assert len(loads) == 2
    settings.checkpoint.unlink()
    assert settings not in cache
    with pytest.raises(FileProblem, match=r"three\.safetensors"):
        cache.get(settings)


def test_no_more_are_kept_than_asked_for(settings: PredictorSettings) -> None:
    cache = PredictorCache(2)
    all_settings = [
        replace(settings, options=settings.options.changed(batch_size=size)) for size in (1, 2, 3)
    ]
    for each in all_settings:
        cache.get(each)
    assert [each in cache for each in all_settings] == [False, True, True]
    cache.clear()
    assert not any(each in cache for each in all_settings)


def test_a_predictor_is_prepared_once_and_keeps_no_other_one_waiting(
    settings: PredictorSettings, loads: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache, begun, go_on, prepare = PredictorCache(), Event(), Event(), predictors._prepare

    def slow(wanted: PredictorSettings, checkpoint: Any) -> Any:
        if wanted == settings:
            begun.set()
            assert go_on.wait(20)
        return prepare(wanted, checkpoint)

    monkeypatch.setattr(predictors, "_prepare", slow)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.get, settings)
        assert begun.wait(20)
        second = threads.submit(cache.get, settings)
        other = replace(settings, checkpoint=saved(tmp_path / "other.safetensors", 1))
        assert cache.get(other) is cache.get(other)
        go_on.set()
        assert first.result(20) is second.result(20) is cache.get(settings)
    assert loads.count(settings.checkpoint) == 1
