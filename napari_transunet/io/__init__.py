"""Files: scans and labels, in and out.

A reader says by a `VolumeError` that a file is damaged, no volume or not to be trusted, by a `SizeError` that it does
not fit into memory, by a `SeveralVolumesError` that it holds several and none was chosen, and by a `FileProblem` that
it cannot be reached. Functions that only this package calls name what they raise beside these.
"""
