"""The dock *Cases*: a study of many scans, opened one after the other in one window."""
