#!/usr/bin/env bash
# Run every benchmark in turn; results are printed. Arguments go to each, such as --quick.
set -euo pipefail
cd "$(dirname "$0")/.."
shopt -s nullglob

python="${VENV:-.venv}/bin/python"
export NAPARI_CONFIG=""
for benchmark in benchmarks/bench_*.py; do
    echo "== ${benchmark#benchmarks/} =="
    scripts/with-display.sh "$python" "$benchmark" "$@"
done
