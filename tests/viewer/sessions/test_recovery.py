"""Labels are saved while a person works, and come back in another driver."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from qtpy.QtWidgets import QLabel

from napari_transunet.annotation import session_folder
from napari_transunet.annotation.session_folder import SessionAbout, load_folder
from napari_transunet.annotation.session_store import SessionInfo, SessionStore
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_labels
from napari_transunet.viewer.export.exporter import provenance_of
from napari_transunet.viewer.layers.layers import add_volume, volume_of
from napari_transunet.viewer.sessions import autosave_controller
from napari_transunet.viewer.sessions.autosave_controller import autosave_of, save_soon, start_autosave
from napari_transunet.viewer.sessions.recovery import Recovery, recovery_question
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets.docks import REVIEW, SEGMENT, show_dock
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.phantom import synthetic_ct
from tests.viewer.waiting import TIMEOUT

SHAPE = (8, 24, 28)
LABELS = LabelSet.from_names({1: "liver", 2: "spleen"})


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


def _result(viewer):
    image = add_volume(viewer, synthetic_ct(SHAPE)[0])
    volume = volume_of(image)
    result = sessions_of(viewer).new_result(image, volume, LABELS)
    viewer.add_layer(result.layer)
    return image, result


def _kept(qtbot, viewer, result):
    autosave = start_autosave(viewer, result)
    qtbot.waitUntil(lambda: autosave._saver is not None, timeout=TIMEOUT)
    return autosave


def test_strokes_undo_and_marks_are_saved_and_come_back(viewer, qtbot, sessions):
    image, result = _result(viewer)
    autosave = _kept(qtbot, viewer, result)
    result.layer.paint((3, 10, 10), 2)
    result.layer.paint((5, 10, 10), 1)
    result.layer.undo()
    result.session.mark_reviewed(3)
    result.session.note(3, "tip")
    result.layer.name = "mine"
    autosave.touch()
    painted = result.layer.data.copy()
    assert autosave.flush()
    viewer.layers.remove(result.layer)  # the session is let go with its layer
    assert autosave_of(result) is None

    recovery = Recovery(viewer)
    qtbot.waitUntil(lambda: not SessionStore().sessions()[0].in_use, timeout=TIMEOUT)
    with qtbot.waitSignal(recovery.found, timeout=TIMEOUT) as told:
        recovery.find_saved(image)
    _, info, others = told.args
    assert others == 0
    assert info.summary["reviewed"] == 1
    with qtbot.waitSignal(recovery.restored, timeout=TIMEOUT):
        recovery.restore(image, info)
    again = sessions_of(viewer).result_on(image)
    assert again.layer.name == "mine"
    assert np.array_equal(again.layer.data, painted)
    assert again.session.reviewed.keys() == {3}
    assert again.session.notes == {3: "tip"}
    assert again.session.edited_voxels(again.layer.data) == np.count_nonzero(painted)
    assert list(again.layer.features["name"]) == ["background", "liver", "spleen"]
    # The driver goes on in the same folder.
    again.layer.paint((6, 5, 5), 1)
    assert autosave_of(again).flush()
    autosave_of(again).close()
    assert len(SessionStore().sessions()) == 1
    assert SessionStore().open(SessionStore().sessions()[0]).load().arrays["labels"][6].any()


@pytest.mark.parametrize("on_image", [True, False])
def test_what_made_the_labels_of_a_file_is_known_when_they_come_back(
    viewer, qtbot, sessions, tmp_path, on_image
):
    registry = sessions_of(viewer)
    volume, found, _ = synthetic_ct(SHAPE)
    made = {"checkpoint": "organs", "sha256": "ab"}
    path = write_labels(tmp_path / "a.nii.gz", found, volume, LABELS, provenance=made)
    image = add_volume(viewer, volume) if on_image else None
    layer = add_volume(viewer, read_volume(path))
    layer.paint((3, 10, 10), 2)
    path.unlink()
    autosave = autosave_of(registry.result_of(layer)) if on_image else registry._lone[layer]
    qtbot.waitUntil(lambda: autosave._saver is not None, timeout=TIMEOUT)
    assert autosave.flush()
    viewer.layers.remove(layer)
    qtbot.waitUntil(lambda: not SessionStore().sessions()[0].in_use, timeout=TIMEOUT)

    Recovery(viewer).restore(image, SessionStore().sessions()[0])
    qtbot.waitUntil(lambda: any(one._type_string == "labels" for one in viewer.layers), timeout=TIMEOUT)
    (again,) = (one for one in viewer.layers if one._type_string == "labels")
    kept = registry.result_of(again) if on_image else registry._lone[again].result
    told = provenance_of(again, kept.session)(again.data)
    assert {key: told["opened"][key] for key in made} == made
    assert told["edited_voxels"] > 0


def test_strokes_are_saved_though_no_dock_shows_the_labels(viewer, qtbot):
    _, result = _result(viewer)
    assert autosave_of(result) is None
    result.layer.paint((3, 10, 10), 2)
    autosave = autosave_of(result)
    qtbot.waitUntil(lambda: autosave._saver is not None, timeout=TIMEOUT)
    assert autosave.flush()
    (saved,) = SessionStore().sessions()
    assert saved.summary["edited_voxels"] == np.count_nonzero(result.layer.data) > 0
    autosave.close()


def test_strokes_in_labels_that_were_removed_and_put_back_are_saved(viewer, qtbot):
    _, result = _result(viewer)
    result.layer.paint((3, 10, 10), 2)
    before = autosave_of(result)
    layer = result.layer
    viewer.layers.remove(layer)
    qtbot.waitUntil(lambda: not before.saving, timeout=TIMEOUT)
    viewer.add_layer(layer)
    layer.paint((4, 10, 10), 2)
    autosave = autosave_of(result)
    assert autosave is not None
    qtbot.waitUntil(lambda: autosave._saver is not None, timeout=TIMEOUT)
    assert autosave.flush()
    newest = SessionStore().sessions()[0]
    np.testing.assert_array_equal(load_folder(newest.folder).arrays["labels"], layer.data)
    autosave.close()


def test_that_the_last_save_is_damaged_is_said_when_the_one_before_comes_back(viewer, qtbot):
    image, result = _result(viewer)
    autosave = _kept(qtbot, viewer, result)
    result.layer.paint((3, 10, 10), 2)
    assert autosave.flush()
    painted = result.layer.data.copy()
    result.layer.paint((5, 10, 10), 1)
    assert autosave.flush()
    viewer.layers.remove(result.layer)
    qtbot.waitUntil(lambda: not SessionStore().sessions()[0].in_use, timeout=TIMEOUT)
    info = SessionStore().sessions()[0]
    last = sorted(info.folder.glob("*.part"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    dock = show_dock(viewer, REVIEW)
    dock.recovery.restore(image, info)
    qtbot.waitUntil(lambda: "last save" in dock.status, timeout=TIMEOUT)
    assert np.array_equal(sessions_of(viewer).result_on(image).layer.data, painted)


def test_every_way_of_editing_is_noticed(viewer, qtbot):
    _, result = _result(viewer)
    autosave = _kept(qtbot, viewer, result)
    autosave.flush()
    touched = []
    autosave._saver.touch = lambda: touched.append(1)
    layer = result.layer
    for act in (
        lambda: layer.paint((3, 10, 10), 2),
        lambda: layer.fill((3, 10, 10), 1),
        layer.undo,
        layer.redo,
        lambda: layer.data_setitem((np.array([0]), np.array([5]), np.array([5])), 2),
        lambda: setattr(layer, "data", layer.data.copy()),
    ):
        touched.clear()
        act()
        assert touched, act
    touched.clear()
    viewer.dims.set_current_step(0, 2)
    assert not touched  # looking is no change
    autosave.close()


def test_saved_labels_are_told_of_until_they_are_dismissed_and_not_for_other_images(viewer, qtbot):
    image, result = _result(viewer)
    autosave = _kept(qtbot, viewer, result)
    result.layer.paint((3, 10, 10), 2)
    autosave.flush()
    recovery = Recovery(viewer)
    found = []
    recovery.found.connect(lambda *args: found.append(args))
    recovery.find_saved(image)  # its labels are here
    viewer.layers.remove(result.layer)
    qtbot.waitUntil(lambda: not SessionStore().sessions()[0].in_use, timeout=TIMEOUT)
    other = add_volume(viewer, synthetic_ct((8, 24, 30))[0])
    recovery.find_saved(other)
    for told in (1, 2, 2):
        recovery.find_saved(image)
        qtbot.waitUntil(lambda: not recovery._tasks.busy, timeout=TIMEOUT)
        assert len(found) == told
        if told == 2:
            recovery.dismiss(found[0][1])
    with qtbot.waitSignal(recovery.failed, timeout=TIMEOUT) as told:
        recovery.restore(other, found[0][1])
    assert "another image" in told.args[0]


def test_a_folder_that_cannot_be_written_is_said_and_work_goes_on(viewer, qtbot, sessions, monkeypatch):
    blocked = sessions / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("NAPARI_TRANSUNET_SESSIONS", str(blocked))
    _, result = _result(viewer)
    autosave = start_autosave(viewer, result)
    with qtbot.waitSignal(sessions_of(viewer).save_failed, timeout=TIMEOUT) as told:  # both docks show it
        pass
    assert "not being saved" in told.args[0]
    result.layer.paint((3, 10, 10), 2)
    assert result.layer.data.any()
    autosave.close()


def test_that_labels_are_not_saved_stays_said_until_they_are(viewer, qtbot, sessions, monkeypatch):
    monkeypatch.setattr(autosave_controller, "_AGAIN", 50)
    blocked = sessions / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("NAPARI_TRANSUNET_SESSIONS", str(blocked))
    docks = [show_dock(viewer, name) for name in (SEGMENT, REVIEW)]
    warnings = [dock.findChild(QLabel, "save_warning") for dock in docks]
    _, result = _result(viewer)
    save_soon(viewer, result)
    qtbot.waitUntil(lambda: all("not being saved" in warning.text() for warning in warnings), timeout=TIMEOUT)
    docks[0].loader.failed.emit("Something else was said meanwhile.")
    assert all("not being saved" in warning.text() for warning in warnings)
    blocked.unlink()  # as where somebody makes room; nobody touches the labels
    qtbot.waitUntil(lambda: SessionStore().sessions() != [], timeout=TIMEOUT)
    qtbot.waitUntil(lambda: not any(warning.text() for warning in warnings), timeout=TIMEOUT)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(session_folder, "write_part", full)
        result.layer.paint((3, 10, 10), 2)
        assert not autosave_of(result).flush()
        qtbot.waitUntil(
            lambda: all("No space left" in warning.text() for warning in warnings), timeout=TIMEOUT
        )
    viewer.layers.remove(result.layer)
    qtbot.waitUntil(lambda: not any(warning.text() for warning in warnings), timeout=TIMEOUT)


def test_labels_are_saved_last_where_a_folder_can_be_made_at_last(viewer, qtbot, sessions, monkeypatch):
    blocked = sessions / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("NAPARI_TRANSUNET_SESSIONS", str(blocked))
    _, result = _result(viewer)
    with qtbot.waitSignal(sessions_of(viewer).save_failed, timeout=TIMEOUT):
        autosave = save_soon(viewer, result)
    blocked.unlink()
    autosave.close()
    assert len(SessionStore().sessions()) == 1


def test_a_copied_layer_has_no_session(viewer):
    _, result = _result(viewer)
    from napari.layers import Layer

    copy = Layer.create(*result.layer.as_layer_data_tuple())
    assert sessions_of(viewer).result_of(copy) is None
    assert sessions_of(viewer).result_of(result.layer) is not None


def test_the_question_says_when_and_how_much():
    about = SessionAbout("a", "ct", None, SHAPE, (1, 1, 1), "now")
    info = SessionInfo(
        None, about, datetime(2025, 3, 4, 12, tzinfo=UTC), 0, False, {"edited_voxels": 1204, "reviewed": 1}
    )
    sentence = recovery_question(info)
    assert "1,204 voxels edited, 1 slice reviewed" in sentence
    assert "March 2025" in sentence
    later = datetime.now(UTC) + timedelta(days=400)
    assert "clock" in recovery_question(replace(info, saved_at=later))
    assert "clock" not in sentence


def test_a_session_with_a_persons_work_is_offered_before_a_newer_one_without(viewer, qtbot):
    image, result = _result(viewer)
    autosave = _kept(qtbot, viewer, result)
    result.layer.paint((3, 10, 10), 2)
    assert autosave.flush()
    mine = autosave._saver._folder.path.name
    viewer.layers.remove(result.layer)
    fresh = sessions_of(viewer).new_result(image, volume_of(image), LABELS)
    viewer.add_layer(fresh.layer)
    newer = _kept(qtbot, viewer, fresh)
    newer.touch()
    assert newer.flush()
    viewer.layers.remove(fresh.layer)
    qtbot.waitUntil(lambda: not any(info.in_use for info in SessionStore().sessions()), timeout=TIMEOUT)
    assert len(SessionStore().sessions()) == 2
    recovery = Recovery(viewer)
    with qtbot.waitSignal(recovery.found, timeout=TIMEOUT) as told:
        recovery.find_saved(image)
    assert told.args[1].folder.name == mine
