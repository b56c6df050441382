"""What napari's manifest names: menus, readers, writers, samples, the demo."""
