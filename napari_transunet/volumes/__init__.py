"""Volumes, their geometry and their label sets; reading and writing every format. Needs no torch."""
