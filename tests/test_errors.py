"""What is said of an error, and which errors are a fault of the program."""

import errno

import pytest

from napari_transunet.errors import USERS_ERRORS, FileProblem, InputError, sentence_of


@pytest.mark.parametrize("error", [InputError("This is wrong; do that."), FileProblem("No file; make one.")])
def test_our_own_say_it_themselves(error: InputError | FileProblem) -> None:
    assert sentence_of(error) == str(error)


def test_the_systems_name_the_file() -> None:
    said = sentence_of(OSError(errno.ENOSPC, "No space left on device", "/data/ct.nii"))
    assert "/data/ct.nii" in said
    assert "No space left" in said


def test_memory_says_what_to_do() -> None:
    said = sentence_of(MemoryError(), "close other volumes")
    assert said.endswith("close other volumes.")


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), ZeroDivisionError()])
def test_others_are_not_the_persons(error: Exception) -> None:
    assert not isinstance(error, USERS_ERRORS)
