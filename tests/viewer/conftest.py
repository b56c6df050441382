"""Viewer tests need napari and a display (xvfb-run), and must leave a user's settings alone."""

import contextlib
import gc
import os

os.environ["NAPARI_CONFIG"] = ""

from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType

import pytest

from tests.networks import make_networks_quick, usual_parts

# Without napari there is nothing to test here.
collect_ignore_glob = [] if find_spec("napari") and find_spec("qtpy") else ["*"]


@pytest.fixture(autouse=True, scope="session")
def libraries() -> None:
    """Load once what all tests use, and leave it out of the searches for garbage after each viewer.

    A million objects of napari and torch, none of which ever goes, took most of the time of every search.
    """
    import napari._qt.qt_main_window  # noqa: F401

    import napari_transunet.viewer.review.review_dock
    import napari_transunet.viewer.segment.segment_dock  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def garbage(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave what napari keeps of each viewer (its actions and menus) out of the next searches, which it slowed down."""
    yield
    if "make_napari_viewer" not in request.fixturenames:  # which has searched just now
        gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def manifests() -> Iterator[None]:
    """Read the manifests of all plugins once, and not again for each viewer."""
    from npe2 import PluginManifest

    found = list(PluginManifest.discover())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManifest, "discover", lambda paths=(): iter(found))
        yield


@pytest.fixture(autouse=True, scope="session")
def quiet_welcome() -> Iterator[None]:
    """napari's welcome writes all its lines again for each shortcut that is bound, before anyone sees it."""
    with pytest.MonkeyPatch.context() as patch:
        with contextlib.suppress(ImportError, AttributeError):  # another napari
            from napari._qt.widgets.qt_welcome import QtWelcomeWidget

            def refresh(self: object, _event: object = None) -> None:
                """Nothing; napari connects it by its name."""

            patch.setattr(QtWelcomeWidget, "refresh", refresh)
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_callbacks() -> Iterator[None]:
    """napari looks up the parameters of each function that is told of an event, thousands for each viewer."""
    from napari.utils.events.event import EventEmitter

    check = EventEmitter._check_signature
    known: dict[object, bool] = {}

    def kind(function: Callable[..., object]) -> object:
        """What all functions have in common whose parameters are the same; None where that is not known."""
        if isinstance(function, EventEmitter):
            return type(function)
        if isinstance(function, partial):
            inner = kind(function.func)
            return inner and (inner, len(function.args), frozenset(function.keywords))
        of = getattr(function, "__func__", function)
        if isinstance(of, FunctionType) and "__wrapped__" not in vars(of):
            return of.__code__, of is function
        return None

    def check_once(function: Callable[..., object]) -> bool:
        key = kind(function)
        if key is None:
            return check(function)
        if key not in known:
            known[key] = check(function)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventEmitter, "_check_signature", staticmethod(check_once))
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_shaders() -> Iterator[None]:
    """vispy reads the same hundred pieces of shader code again for each of thousands of objects."""
    from vispy.visuals.shaders import function, parsing

    with pytest.MonkeyPatch.context() as patch:
        clean = cache(partial(function.Function._clean_code, None))
        patch.setattr(function.Function, "_clean_code", lambda _self, code: clean(code))
        patch.setattr(parsing, "parse_function_signature", cache(parsing.parse_function_signature))
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_attributes() -> Iterator[None]:
    """pydantic searches for each private attribute of napari's models anew, ten thousand times for each viewer."""
    from napari.utils.events import EventedModel

    search = getattr(EventedModel, "__getattr__", None)

    def look_up(model: EventedModel, name: str) -> object:
        try:
            return object.__getattribute__(model, "__pydantic_private__")[name]
        except (AttributeError, KeyError, TypeError):  # another attribute, or the model is not complete yet
            return search(model, name)

    with pytest.MonkeyPatch.context() as patch:
        if search is not None:  # another napari
            patch.setattr(EventedModel, "__getattr__", look_up)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_polygons() -> Iterator[None]:
    """Each labels layer has three objects to draw polygons with, which take as long to make as the layer's own."""
    from napari._vispy.overlays import labels_polygon
    from vispy.scene import Node

    class Undrawn:
        """A part that takes what it is told."""

        def __init__(self, **_told: object) -> None:
            self.mesh = self

        def set_data(self, **_told: object) -> None:
            """Nothing to draw."""

    class NothingDrawn(Node):
        """What holds the parts."""

        def __init__(self, _parts: object) -> None:
            super().__init__()

        def set_gl_state(self, *_state: object, **_more: object) -> None:
            """Nothing to draw."""

    with pytest.MonkeyPatch.context() as patch:
        for name in ("Line", "Markers", "Polygon"):
            patch.setattr(labels_polygon, name, Undrawn)
        patch.setattr(labels_polygon, "Compound", NothingDrawn)
        yield


@pytest.fixture(autouse=True)
def no_overlays(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What napari draws over layers (scale bar, brush) has a dozen visuals; what is about looks asks for `style`."""
    if "style" not in request.fixturenames:
        from napari._vispy.canvas import VispyCanvas

        for name in ("_update_viewer_overlays", "_update_layer_overlays"):
            monkeypatch.setattr(VispyCanvas, name, lambda *_: None, raising=False)  # another napari


@pytest.fixture(autouse=True)
def no_menus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """napari fills its menus for each viewer; what is about keys asks for `menus`, what is about looks has them."""
    if not {"menus", "style"} & set(request.fixturenames):
        from napari._qt import qt_main_window

        build = qt_main_window.build_qmodel_menu
        monkeypatch.setattr(qt_main_window, "build_qmodel_menu", lambda _menu, **more: build("none", **more))


@pytest.fixture
def menus() -> None:
    """napari's menus with their actions, whose keys the window listens to."""


@pytest.fixture(autouse=True)
def no_style(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qt works the style sheet out for each widget that is added; what is about looks and sizes asks for `style`."""
    if "style" not in request.fixturenames:
        monkeypatch.setattr("napari._qt.qt_main_window.get_stylesheet", lambda *_args, **_more: "")


@pytest.fixture
def style() -> None:
    """napari's style sheet, as people see it."""


@pytest.fixture(autouse=True, scope="session")
def small_networks() -> Iterator[None]:
    """Networks that take no time; a test that wants OpenVINO puts `backends.has_openvino` back."""
    with pytest.MonkeyPatch.context() as patch:
        make_networks_quick(patch)
        yield


@pytest.fixture
def wide() -> Iterator[None]:
    """Networks have their usual decoder and ResNet, as in the processes that a test starts."""
    with usual_parts():
        yield


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs do not give way to other processes: where these keep every core, a run would never end.

    And a dock spares no viewer the search for garbage, since napari checks that each is gone once it is closed; nor
    does closing one end what is spared here.
    """
    from napari_transunet.viewer.plugin import opening
    from napari_transunet.viewer.segment import segment_dock
    from napari_transunet.viewer.widgets import dock_events, priority

    monkeypatch.setattr(priority, "_NICENESS", 0)
    for module in (opening, segment_dock):
        monkeypatch.setattr(module, "spare_what_is_loaded", lambda _viewer: None)
    monkeypatch.setattr(dock_events, "spare_nothing", lambda: None)


@pytest.fixture(autouse=True)
def sessions(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the labels of this test are saved; the user's own sessions are left alone."""
    folder = tmp_path_factory.mktemp("sessions")
    monkeypatch.setenv("NAPARI_TRANSUNET_SESSIONS", str(folder))
    return folder
