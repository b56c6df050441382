"""A box for a number that means the same in every language."""

from typing import TYPE_CHECKING

from qtpy.QtCore import QLocale
from qtpy.QtWidgets import QDoubleSpinBox

if TYPE_CHECKING:
    from qtpy.QtGui import QValidator
    from qtpy.QtWidgets import QWidget


class NumberBox(QDoubleSpinBox):
    """Shows numbers as all sentences do, with a point, and takes a comma as one.

    Qt takes whichever the system's language does not use for a separator of thousands: 1.5 became 15 mm.
    """

    def __init__(self, name: str, parent: "QWidget | None" = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        plain = QLocale.c()
        plain.setNumberOptions(
            QLocale.NumberOption.OmitGroupSeparator | QLocale.NumberOption.RejectGroupSeparator
        )
        self.setLocale(plain)

    def validate(self, text: str | None, position: int) -> "tuple[QValidator.State, str, int]":
        """Whether this is a number, or may become one."""
        return super().validate((text or "").replace(",", "."), position)

    def valueFromText(self, text: str | None) -> float:  # noqa: N802
        """The number that a text means."""
        return super().valueFromText((text or "").replace(",", "."))
