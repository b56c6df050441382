"""The menu *Project* of the dock *Cases*: what can be done with a study, and what a person is asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QInputDialog, QMenu

from napari_transunet.viewer.widgets.tasks import BackgroundTasks

if TYPE_CHECKING:
    from napari_transunet.viewer.project.cases_dock import CasesDock


class ProjectMenu(QMenu):
    """Asks for files, names and checkpoints; the dock does what they are for."""

    def __init__(self, dock: CasesDock) -> None:
        super().__init__(dock)
        self._dock = dock
        self._tasks = BackgroundTasks(self)
        self.addAction("Open…", self._ask_project)
        self.addAction("New…", self._ask_new)
        self.addSeparator()
        of_case = dock.actions_of_case.menu
        self.addMenu(of_case)
        self._of_project = [
            of_case.menuAction(),
            self.addAction("Add a folder of scans…", self._ask_folder),
            self.addAction("Add scans…", self._ask_files),
            self.addAction("Segment the cases shown with…", self._ask_checkpoint),
            self.addAction("Import predictions…", self._ask_predictions),
            self.addAction("Learn from reviewed slices", dock.learn),
            self.addAction("Export all and report", dock.export_and_report),
            self.addAction("Annotator…", self._ask_annotator),
        ]

    def set_open(self, is_open: bool) -> None:
        """Whether a project is open, so that something can be done with it."""
        for action in self._of_project:
            if action is not None:
                action.setEnabled(is_open)

    def _ask_project(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Open a project")
        if folder:
            self._dock.open_project(folder)

    def _ask_new(self) -> None:
        scans = QFileDialog.getExistingDirectory(self, "A folder with the scans of the study")
        if not scans:
            return
        folder, _ = QFileDialog.getSaveFileName(
            self, "A new folder for the project", str(Path(scans).parent / "study")
        )
        if folder:
            self._dock.new_project(folder, [scans])

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Add a folder of scans")
        if folder:
            self._dock.add_scans([folder])

    def _ask_files(self) -> None:
        files, _ = QFileDialog.getOpenFileNames(self, "Add scans")
        if files:
            self._dock.add_scans(files)

    def _ask_annotator(self) -> None:
        name, good = QInputDialog.getText(
            self, "Annotator", "Your name in this project", text=self._dock.cases.annotator
        )
        if good and name.strip():
            if self._dock.cases.current is not None:
                self._dock.set_status("Close the open case first; it is held in the other name.")
                return
            self._dock.cases.annotator = name.strip()
            self._dock.refresh()

    def _ask_checkpoint(self) -> None:
        def names() -> list[str]:
            from napari_transunet.checkpoints.registry import list_checkpoints

            return [one.name for one in list_checkpoints() if one.ok]

        self._tasks.run(names, self._ask_which_checkpoint, self._dock.say, what="Looking at the checkpoints")

    def _ask_which_checkpoint(self, names: Sequence[str]) -> None:
        count = len(self._dock.table.cases.shown)
        name, good = QInputDialog.getItem(
            self, "Segment", f"The checkpoint for the cases that are shown ({count})", names, editable=False
        )
        if good:
            self._dock.segment_shown(name)

    def _ask_predictions(self) -> None:
        folder = QFileDialog.getExistingDirectory(
            self, "A folder with a file of labels, or a folder of masks, for each case"
        )
        if not folder:
            return
        tool, good = QInputDialog.getText(
            self, "Import predictions", "Which tool made them?", text=Path(folder).name
        )
        if good and tool.strip():
            self._dock.import_predictions(folder, tool.strip())
