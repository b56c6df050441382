#!/usr/bin/env bash
# Measure how fast it is here. Tables are printed; JSON and plots go to benchmarks/results/, with --quick to
# build/benchmarks/. Arguments: --quick (small volumes, once), --full (also batch sizes, 1,000 slices, a profile).
# The benchmarks that train, paint or need data of their own are run by hand; see benchmarks/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

results=benchmarks/results quick=() full=()
for argument in "$@"; do
    case "$argument" in
        --quick) results=build/benchmarks quick=(--quick) ;;
        --full) full=(--full --plot) ;;
        *) echo "bench.sh knows --quick and --full, not $argument." >&2; exit 2 ;;
    esac
done
mkdir -p "$results"
bin="${VENV:-.venv}/bin"
export NAPARI_CONFIG=""

run() { echo "== $1 =="; shift; "$@"; }

plots=(); [[ ${#full[@]} -eq 0 ]] || plots=("${full[@]}" "$results")
# The variant of the paper beside the shipped checkpoint; a small one where it has to be quick.
variant=R50-ViT-B_16; [[ ${#quick[@]} -eq 0 ]] || variant=R50-ViT-Ti_16
run "inference" "$bin/python" -m benchmarks.inference --variant "$variant" "${quick[@]}" "${plots[@]}" \
    --out "$results/benchmark.json"
run "reading" "$bin/python" benchmarks/bench_reading.py "${quick[@]}" --out "$results/reading.json"
run "first slice" scripts/with-display.sh "$bin/python" benchmarks/bench_first_slice.py \
    ${quick:+--rounds 1} --out "$results/first_slice.json"
run "the window while the network runs" scripts/with-display.sh "$bin/python" benchmarks/bench_event_loop.py \
    "${quick[@]}" --out "$results/event_loop.json"
run "the worker, in the window and without napari" scripts/with-display.sh "$bin/python" benchmarks/bench_worker.py \
    ${quick:+--rounds 1 --slices 12} --out "$results/worker.json"
