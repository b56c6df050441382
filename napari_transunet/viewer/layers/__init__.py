"""napari's layers: what ours carry, how they are drawn, undone and compared."""
