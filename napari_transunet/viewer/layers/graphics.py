"""What the graphics card holds of a removed layer is freed where it was made; elsewhere, drawing can crash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.qt import QtViewer


def free_graphics_in_their_context(qt_viewer: QtViewer) -> None:
    """Make the canvas's OpenGL context current whenever napari is about to free what a removed layer held there.

    napari frees it at once (`VispyCanvas._clean_and_update_scenegraph`), in whichever context is current: outside of
    drawing that is the one in which Qt puts the window together. OpenGL allows that, since the two share objects. But
    Mesa 22.3 (drawing by software on Linux) leaves the shaders to the canvas's own context, whose next `glFlush`
    unbinds the vertex shader in use, whichever it is. The next `glDrawArrays` with an unchanged program, as after
    a step of the slider under labels, reads a null pointer.
    """
    canvas, events = qt_viewer.canvas._scene_canvas, qt_viewer.viewer.layers.events

    def make_current(_event: Any = None) -> None:
        canvas.set_current()

    events.removing.connect(make_current)
    if hasattr(events, "end_batch"):  # from napari 0.7 on several at once are freed at the end
        events.end_batch.connect(make_current)
