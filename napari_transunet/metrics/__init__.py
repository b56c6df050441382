"""How labels are measured, and how two of them agree."""
