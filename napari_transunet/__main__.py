"""The command `napari-transunet`, which is also `python -m napari_transunet`."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; Ctrl-C is one line and a status from the beginning, also while modules are imported."""
    try:
        from napari_transunet.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
