"""`python -m napari_transunet` is the same as the command `napari-transunet`."""

from napari_transunet.cli import main

if __name__ == "__main__":
    main()
