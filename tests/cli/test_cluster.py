"""What the commands with --scheduler share: the table at the end, and what they refuse."""

import csv

import pytest

from napari_transunet.cli.cluster import check_table, write_table
from napari_transunet.errors import InputError
from tests.commands import error_line

pytest.importorskip("distributed", reason="the extra cluster is not installed")


def test_the_table_is_read_as_it_was_written_and_holds_no_formula(tmp_path):
    path = tmp_path / "segment.csv"
    path.write_text("from before")
    write_table(path, [["=cmd()", 3, "two\nlines"], ["-scan", "", "x"]], ["scan", "slices", "message"])
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["scan", "slices", "message"], ["'=cmd()", "3", "two lines"], ["'-scan", "", "x"]]


def test_the_table_takes_the_place_of_its_own_kind_alone(tmp_path):
    path = tmp_path / "segment.csv"
    check_table(path, ["scan", "slices"], overwrite=False)
    write_table(path, [["a", 1]], ["scan", "slices"])
    check_table(path, ["scan", "slices"], overwrite=False)
    path.write_bytes(b"patient,diagnosis\n")
    with pytest.raises(InputError, match="not a table of such a run"):
        check_table(path, ["scan", "slices"], overwrite=False)
    check_table(path, ["scan", "slices"], overwrite=True)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="not a table of such a run"):
        check_table(path, ["scan", "slices"], overwrite=False)
    with pytest.raises(InputError, match="no folder"):
        check_table(tmp_path / "missing/f.csv", ["scan"], overwrite=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("worker", "local"), "A worker joins a scheduler"),
        (("worker", "nowhere"), "A scheduler is local"),
        (("worker", "tls://127.0.0.1:1"), "needs certificates"),
        (("worker", "tcp://127.0.0.1:1", "--memory", "lots"), "--memory is a size"),
        (("worker", "tcp://127.0.0.1:1", "--gpu", "first"), "--gpu takes auto"),
        (("worker", "tcp://127.0.0.1:1", "--gpu", "0", "--workers", "2"), "at most 1 worker"),
        (("scheduler", "--tls-cert", "nowhere.pem"), "TLS needs --tls-ca-file"),
        (("evaluate", ".", ".", "--tls-cert", "x.pem"), "TLS options need --scheduler"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(run, arguments, sentence):
    assert sentence in error_line(run(*arguments))


def test_a_certificate_that_is_none_is_told(run, tmp_path):
    for name in ("ca", "cert"):
        (tmp_path / f"{name}.pem").write_text("no certificate")
    line = error_line(run("scheduler", "--tls-ca-file", "ca.pem", "--tls-cert", "cert.pem"))
    assert "The TLS files cannot be used" in line


def test_a_damaged_checkpoint_is_told_before_workers_start_or_a_folder_is_made(run, tmp_path, monkeypatch):
    def started(*_arguments: object) -> None:
        raise AssertionError("workers were started")

    monkeypatch.setattr("napari_transunet.cli.cluster_segment.cluster", started)
    for name in ("one", "two"):
        (tmp_path / f"{name}.nii").write_bytes(b"")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      cut off")
    line = error_line(
        run("segment", "one.nii", "two.nii", "-o", "out", "-c", "damaged.safetensors", "--scheduler", "local")
    )
    assert "damaged.safetensors" in line
    assert not (tmp_path / "out").exists()
