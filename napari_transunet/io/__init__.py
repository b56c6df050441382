"""Files: scans and labels, in and out."""
