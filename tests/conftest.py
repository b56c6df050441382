"""Fixtures that every test may use, and how examples are generated."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_ROOT = Path(__file__).parents[1]

# What is imported while tests are collected stays: to search it for garbage took a fifth of that time. This is not
# disabled, since dask leaves it for good as it was when dask was imported.
gc.set_threshold(0)

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what is about the whole package or window: with the longest tests at the end, one process waits."""
    items.sort(key=lambda item: len(item.path.relative_to(_ROOT).parts))


def pytest_collection_finish() -> None:
    """Leave what is loaded by now out of the searches for garbage, and search less often: a tenth of the time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with reference numbers and real images; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("TRANSUNET_TEST_DATA", _ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(
            f"the reference data is not at {folder}; set TRANSUNET_TEST_DATA to the folder that holds it"
        )
    return folder
