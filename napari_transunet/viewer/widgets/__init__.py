"""Small widgets and helpers that both docks use."""
