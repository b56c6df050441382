"""A display to draw on: the one there is, or a virtual one (Xvfb) for a machine without."""

import contextlib
import ctypes
import logging
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from napari_transunet.annotation.session_store import ROOT_VARIABLE
from napari_transunet.errors import FileProblem

logger = logging.getLogger(__name__)

_SCREEN = "1920x1200x24"
_START = 20.0  # seconds that Xvfb may take to start
# Without these Qt aborts the process with a message about something else.
_LIBRARIES: Mapping[str, str] = MappingProxyType(
    {
        "libGL.so.1": "libgl1",
        "libEGL.so.1": "libegl1",
        "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
        "libxcb-cursor.so.0": "libxcb-cursor0",
        "libxcb-icccm.so.4": "libxcb-icccm4",
        "libxcb-keysyms.so.1": "libxcb-keysyms1",
        "libdbus-1.so.3": "libdbus-1-3",
        "libfontconfig.so.1": "libfontconfig1",
    }
)


def has_display() -> bool:
    """Whether a window can be shown: always on Windows and macOS, with an answering X or Wayland server elsewhere."""
    if sys.platform in ("win32", "darwin"):
        return True
    if os.environ.get("WAYLAND_DISPLAY"):
        return True
    name = os.environ.get("DISPLAY", "")
    return bool(name) and _answers(name)


def require_libraries() -> None:
    """Check for the system libraries that Qt needs on Linux.

    Raises
    ------
    FileProblem
        Some are missing; the sentence holds the command that installs them on Debian.
    """
    if sys.platform != "linux":
        return
    missing = [package for library, package in _LIBRARIES.items() if not _loads(library)]
    if missing:
        raise FileProblem(
            "Libraries that the window needs are missing; install them with “apt-get install "
            f"{' '.join(missing)}” and try again."
        )


@contextlib.contextmanager
def virtual_display() -> Iterator[str]:
    """Start Xvfb, point this process at it, and stop it at the end; yields the display's name.

    Must be entered before Qt is first used. Drawing is done by software, so that it works without a GPU.
    A user's napari settings and saved labels are neither read nor written.

    Raises
    ------
    FileProblem
        Xvfb is not installed (the sentence names the package), or does not start.
    """
    xvfb = shutil.which("Xvfb")
    if xvfb is None:
        raise FileProblem(
            "There is no display, and Xvfb, which stands in for one, is not installed; install it with "
            "“apt-get install xvfb” and try again."
        )
    with contextlib.ExitStack() as stack:
        runtime = stack.enter_context(tempfile.TemporaryDirectory(prefix="transunet-"))
        Path(runtime).chmod(0o700)  # Qt insists on it
        server, name = _start(xvfb)
        stack.callback(_stop, server)
        stack.enter_context(
            _environment(
                {
                    "DISPLAY": name,
                    "LIBGL_ALWAYS_SOFTWARE": "1",
                    "NAPARI_CONFIG": "",
                    ROOT_VARIABLE: os.environ.get(ROOT_VARIABLE) or f"{runtime}/sessions",
                    "QT_QPA_PLATFORM": "xcb",
                    "WAYLAND_DISPLAY": None,
                    "XAUTHORITY": None,
                    "XDG_RUNTIME_DIR": runtime,
                }
            )
        )
        logger.info("A virtual display runs as %s.", name)
        yield name


def _start(xvfb: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server; it chooses a free number and writes it into a pipe."""
    reading, writing = os.pipe()
    try:
        server = subprocess.Popen(  # noqa: S603  the program is the Xvfb found on the PATH
            [xvfb, "-displayfd", str(writing), "-screen", "0", _SCREEN, "-nolisten", "tcp"],
            pass_fds=(writing,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must reach us first, so that the window can close
        )
    except OSError as error:
        os.close(reading)
        raise FileProblem(f"Xvfb does not start: {error.strerror or error}.") from error
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], _START)
        number = pipe.readline().strip() if ready else b""
    if not number.isdigit():
        _stop(server)
        raise FileProblem(
            "Xvfb does not start; run “Xvfb :99” in a terminal to see why, or set DISPLAY to a display."
        )
    return server, f":{number.decode()}"


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


@contextlib.contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}

    def put(settings: Mapping[str, str | None]) -> None:
        for name, value in settings.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    put(values)
    try:
        yield
    finally:
        put(before)


def _answers(name: str) -> bool:
    """Whether an X server listens at a DISPLAY such as ":0", "host:10.0" or a socket's path."""
    host, _, number = name.rpartition(":")
    number = number.partition(".")[0]
    if not number.isdigit():
        return False
    try:
        if hasattr(socket, "AF_UNIX") and (host.startswith("/") or host in ("", "unix")):
            address = name if host.startswith("/") else f"/tmp/.X11-unix/X{number}"  # noqa: S108
            for candidate in (address, f"\0{address}"):
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                    probe.settimeout(2)
                    probe.connect(candidate)
                    return True
            return False
        with socket.create_connection((host, 6000 + int(number)), timeout=2):
            return True
    except (OSError, OverflowError):
        return False


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
