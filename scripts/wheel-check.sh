#!/usr/bin/env bash
# Build the wheel, install it alone into a clean environment, and use it there as a newcomer would:
# first without napari (command line and library), then with the gui extra (manifest, demo data).
set -euo pipefail
cd "$(dirname "$0")/.."
root="$PWD"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

echo "Building the wheel"
"${VENV:-.venv}/bin/python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { tail -n 30 "$work/build.log"; exit 1; }
wheel="$(echo "$work"/dist/*.whl)"
ls -l "$work/dist"

echo "Installing it alone"
"${VENV:-.venv}/bin/python" -m venv "$work/env"
install() { "$work/env/bin/python" -m pip install -qq --disable-pip-version-check --no-input -c "$root/requirements/constraints.txt" "$@"; }
install --upgrade 'pip>=24.2'
install torch
install "$wheel"

cd "$work"   # nothing of the checkout is in reach from here
export NAPARI_TRANSUNET_CHECKPOINTS="$work/none"
PATH="$work/env/bin:$PATH"
if python -c 'import napari' 2>/dev/null; then echo "The base install brought napari." >&2; exit 1; fi
napari-transunet --version
napari-transunet variants >/dev/null
python - <<'E2'
from napari_transunet.volumes.phantom import synthetic_ct
from napari_transunet.io.writing import write_labels, write_volume

volume, labels, names = synthetic_ct()
write_volume("phantom.nii.gz", volume)
write_labels("reference.nii.gz", labels, volume, names)
E2
napari-transunet segment phantom.nii.gz -o labels.nii.gz
checkpoint="$(python -c 'import json; print(json.load(open("labels.json"))["provenance"]["checkpoint"])')"
if [ "$checkpoint" != abdominal-organs-ct ]; then echo "A CT was segmented with $checkpoint." >&2; exit 1; fi
napari-transunet inspect "$checkpoint"
napari-transunet convert labels.nii.gz again.seg.nrrd
napari-transunet evaluate labels.nii.gz again.seg.nrrd
napari-transunet evaluate labels.nii.gz reference.nii.gz

echo "With the gui extra"
install "$wheel[gui]"
npe2 validate napari-transunet
echo "The wheel works."
