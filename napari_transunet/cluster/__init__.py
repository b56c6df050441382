"""Work on other processes and other machines, by Dask's distributed scheduler (extra `cluster`)."""
