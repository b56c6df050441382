"""Export of labels from the window: one dialog and one background export, which both docks share."""
