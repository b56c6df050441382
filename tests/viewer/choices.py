"""What a list of choices shows, and choosing in it."""

from qtpy.QtWidgets import QTableWidget

from napari_transunet.viewer.widgets.choice_list import ChoiceList


def choices(chooser: ChoiceList) -> QTableWidget:
    """The table of what can be chosen."""
    return chooser.findChild(QTableWidget, "choices")


def rows(chooser: ChoiceList) -> list[list[str]]:
    """The texts of its rows."""
    table = choices(chooser)
    columns = range(table.columnCount())
    return [[table.item(row, at).text() for at in columns] for row in range(table.rowCount())]
