"""Labels in files for other programs: formats, what may be written where, and the writing itself."""
