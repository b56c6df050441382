"""OME-Zarr: images with several resolutions in chunks, on disk or over HTTP, and labels in them."""
