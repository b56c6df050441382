"""What a first run needs, loaded and made ready before anybody asks for it, so that the window is not held up then."""

import ctypes
import importlib.util
import logging
import os
import sys
from pathlib import Path

from napari_transunet.errors import TransUNetError
from napari_transunet.files import available_memory
from napari_transunet.viewer.segment.predictors import PredictorCache, PredictorSettings
from napari_transunet.viewer.widgets.priority import be_nice, no_garbage_collection

logger = logging.getLogger(__name__)

_PART_OF_MEMORY = 10  # a file may take 1 / this of what is free to be prepared unasked


def load_torch_libraries() -> None:
    """Let the system load torch's large libraries while the window is served; for any thread, before torch is imported.

    The import holds Python's lock meanwhile, for half a second and more in which no thread of the window moves. Called
    through `ctypes` the system's loader does not hold it, and the import finds them loaded. What cannot be loaded so is
    left to the import.
    """
    found = importlib.util.find_spec("torch")
    if sys.platform != "linux" or "torch" in sys.modules or found is None or found.origin is None:
        return
    load = ctypes.CDLL(None).dlopen
    load.restype, load.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    libraries = Path(found.origin).parent / "lib"
    for name, how in (("libtorch_global_deps.so", os.RTLD_GLOBAL), ("libtorch_cpu.so", os.RTLD_LOCAL)):
        load(os.fsencode(libraries / name), os.RTLD_NOW | how)  # in torch's own order and manner


def load_engine() -> None:
    """Do ahead what a first run needs but once, so that it does not hold up the window then; for any thread."""
    from vispy.visuals.line.dash_atlas import DashAtlas

    with no_garbage_collection():
        import napari_transunet.checkpoints.loading
        import napari_transunet.inference.predictor  # noqa: F401
    DashAtlas()  # the patterns of lines, which every labels layer has for its polygons, are kept by vispy


def prepare_ahead(cache: PredictorCache, settings: PredictorSettings) -> None:
    """Make a predictor ready before anybody asks for it, so that a first run shows labels at once; for any thread.

    Only on the processor, where it takes seconds, and where memory is plentiful. What is wrong with the checkpoint is
    said when a run is asked for.
    """
    from napari_transunet.inference.devices import resolve_device

    be_nice()
    try:
        large = settings.checkpoint.stat().st_size > available_memory() / _PART_OF_MEMORY
        if not large and resolve_device(settings.options.device).type == "cpu":
            cache.get(settings)
    except (TransUNetError, OSError) as error:
        logger.debug("Nothing was prepared ahead: %s", error)
