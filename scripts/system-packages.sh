#!/usr/bin/env bash
# Install the system packages that napari's window and a virtual display need, where they are missing.
# Debian and Ubuntu only; elsewhere, or without the right to install, it says what to install.
set -euo pipefail

packages=(
    xvfb xauth                                            # the virtual display
    libgl1 libegl1 libopengl0 libglib2.0-0                # OpenGL, in software where there is no GPU
    libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0
    libxcb-shape0 libxcb-xinerama0 libxcb-xkb1 libxkbcommon-x11-0 libdbus-1-3
    fontconfig fonts-dejavu-core                          # without a font, Qt draws boxes
)

if ! command -v dpkg-query >/dev/null; then
    if [[ "$(uname -s)" == Linux ]] && ! command -v xvfb-run >/dev/null; then
        echo "Not a Debian system: please install Xvfb and the xcb libraries of Qt 6 with your package manager." >&2
    fi
    exit 0
fi

python_venv=()
if [[ "$(command -v python3 || true)" == /usr/bin/python3 ]]; then
    python_venv=(python3-venv)                            # Debian's Python comes without ensurepip
fi

missing=()
for package in "${packages[@]}" "${python_venv[@]}"; do
    status="$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)"
    # Since the 64-bit time transition some libraries carry a suffix.
    suffixed="$(dpkg-query -W -f='${db:Status-Status}' "${package}t64" 2>/dev/null || true)"
    if [[ "$status" != installed && "$suffixed" != installed ]]; then
        missing+=("$package")
    fi
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

if [[ "$(id -u)" -eq 0 ]]; then
    as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    echo "These system packages are missing; please install them and try again:" >&2
    echo "    sudo apt-get install ${missing[*]}" >&2
    exit 2
fi

echo "Installing system packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
if ! { "${as_root[@]}" apt-get -q update && "${as_root[@]}" apt-get -q install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    exit 2
fi
