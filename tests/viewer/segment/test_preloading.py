"""What is made ready before a run asks for it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from napari_transunet.viewer.segment import preloading
from napari_transunet.viewer.segment.predictors import PredictorCache, PredictorSettings
from napari_transunet.viewer.segment.preloading import prepare_ahead
from tests.viewer.segment.test_predictors import loads, settings

__all__ = ["loads", "settings"]  # fixtures


def test_what_is_prepared_ahead_is_there_for_the_run_and_never_takes_scarce_memory(
    settings: PredictorSettings, loads: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = PredictorCache()
    monkeypatch.setattr(preloading, "be_nice", lambda: None)  # it would stay with this thread
    monkeypatch.setattr(preloading, "available_memory", lambda: 3 * settings.checkpoint.stat().st_size)
    prepare_ahead(cache, settings)
    prepare_ahead(cache, PredictorSettings(tmp_path / "none.safetensors"))
    assert not loads
    monkeypatch.undo()
    monkeypatch.setattr(preloading, "be_nice", lambda: None)
    prepare_ahead(cache, settings)
    assert settings in cache


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is left to the import")
@pytest.mark.long
def test_the_systems_loader_loads_torch_before_it_is_imported() -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from napari_transunet.viewer.segment.preloading import load_torch_libraries
        load_torch_libraries()
        print("torch" in sys.modules, "libtorch_cpu" in Path("/proc/self/maps").read_text())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
