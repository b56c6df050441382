"""A study of many scans in one folder: which there are, who works on which, what became of each."""
