#!/usr/bin/env bash
# Run a command with an X display: a virtual one of its own, so that no window flashes up and results repeat.
set -euo pipefail
if [[ "$(uname -s)" == Linux ]]; then
    exec xvfb-run -a -s "-screen 0 1920x1200x24" "$@"
fi
exec "$@"
