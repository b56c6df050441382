#!/usr/bin/env bash
# Run the tests: first the engine's, with Qt and napari kept out, then the viewer's on a virtual display.
# Each run takes JOBS processes (2). Arguments go to both runs. Both always run; the status is that of the first that
# failed.
set -uo pipefail
cd "$(dirname "$0")/.."

python="${VENV:-.venv}/bin/python"
jobs="${JOBS:-2}"
export NAPARI_CONFIG=""
# Every process that a test starts would compile the package anew.
unset PYTHONDONTWRITEBYTECODE
pytest=("$python" -m pytest -q --durations=10)
if [[ "$jobs" -gt 1 ]]; then
    # One thread each: processes that all use every core are slower together than one alone.
    export OMP_NUM_THREADS=1
    pytest+=(-n "$jobs" --dist worksteal)
fi
status=0
# Tests make thousands of small files, each of which takes a disk some milliseconds: in memory where there is plenty.
room="$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)"
if [[ -z "${TMPDIR:-}" && "$jobs" -gt 1 && "${room:-0}" -gt 4000000 ]]; then
    TMPDIR="$(mktemp -d /dev/shm/transunet-tests.XXXXXX)"
    export TMPDIR
    trap 'rm -rf "$TMPDIR"' EXIT
fi

echo "== engine =="
"${pytest[@]}" -p no:napari -p no:pytest-qt -p no:npe2 -p no:napari-plugin-engine --ignore=tests/viewer "$@" || status=$?

echo "== viewer =="
scripts/with-display.sh "${pytest[@]}" tests/viewer "$@"
viewer=$?
# With a selection (-m slow, -k …) it is no failure that the viewer has no test of that kind.
if [[ $viewer -eq 5 && $# -gt 0 ]]; then viewer=0; fi
[[ $status -ne 0 ]] || status=$viewer
exit "$status"
