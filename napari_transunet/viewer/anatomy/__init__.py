"""Scans as radiologists look at them: sides of the patient, anatomical planes, windows, and where the cursor is."""
