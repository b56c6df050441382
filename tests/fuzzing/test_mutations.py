"""Files changed at random give a value or one of our errors, soon and in little memory; 50,000 of them when slow."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzzing.mutating import SUBJECTS, fuzz

SHORT, LONG = 20, 50_000


@pytest.mark.parametrize("kind", SUBJECTS)
def test_a_few_mutations(tmp_path: Path, kind: str) -> None:
    fuzz(kind, SHORT, 0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SUBJECTS)
def test_many_mutations(tmp_path: Path, kind: str) -> None:
    """In a process of its own, so that one that ends is noticed as well."""
    count = -(-LONG // len(SUBJECTS))
    code = (
        "import sys; from pathlib import Path; from tests.fuzzing.mutating import fuzz;"
        "fuzz(sys.argv[1], int(sys.argv[2]), 1, Path(sys.argv[3]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, kind, str(count), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=3600,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
