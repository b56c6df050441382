"""How long tests wait for what has to come."""

TIMEOUT = 180_000
"""ms. Nobody waits longer than it takes, and a busy machine may need long."""
