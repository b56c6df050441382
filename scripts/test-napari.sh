#!/usr/bin/env bash
# Run the viewer's tests with other versions of napari, each in an environment of its own beside the checkout's, which
# lends it everything that napari does not pin otherwise (so that torch is installed once). Arguments go to pytest.
#   NAPARI="0.6.6 0.8.0" scripts/test-napari.sh tests/viewer/layers
# Without NAPARI: the versions that the package allows, but for that of the checkout. The status is that of the last failure.
set -uo pipefail
cd "$(dirname "$0")/.."

versions="${NAPARI:-0.6.6 0.7.1 0.8.0 0.10.0rc1}"
base="$(realpath "${VENV:-.venv}")"
folder="${VENVS:-.venvs}"
export NAPARI_CONFIG=""
status=0

make_environment() {
    local version="$1" env="$2" site
    [[ ! -f "$env/.ready" ]] || return 0
    echo "Making $env"
    rm -rf "$env"
    "$base/bin/python" -m venv --without-pip "$env" || return
    site="$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    # addsitedir, unlike a plain path in this file, also takes the links of editable installs along.
    echo "import site; site.addsitedir('$("$base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
        >"$site/lent.pth"
    "$env/bin/python" -m pip install -qq --disable-pip-version-check --no-input "napari==$version" || return
    touch "$env/.ready"
}

tests=("$@")
[[ $# -gt 0 ]] || tests=(tests/viewer)
for version in $versions; do
    env="$folder/napari-$version"
    echo "== napari $version =="
    make_environment "$version" "$env" || { status=1; continue; }
    PYTHONPATH="$PWD" scripts/with-display.sh "$env/bin/python" -m pytest -q -p no:cacheprovider "${tests[@]}" || status=$?
done
exit "$status"
