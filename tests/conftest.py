"""What holds for every test: one thread for each process, a cache of its own, and that what must be there is there.

EDGEYOLO_REQUIRE=ncnn,bccd makes a missing backend or data set a failure instead of a skip.
EDGEYOLO_EXPLORE=1 draws other examples of properties in each run, as `make test-all` does, instead of always the same.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator

# Before numpy, torch and ncnn are there to read them. Tests run side by side: no threads where none are asked for, and
# those that wait for one another sleep, where they would spin on cores that the other tests need.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
from bccd import BCCD
from hypothesis import settings

# Fixtures that several folders share; see tests/cases.
pytest_plugins = ("one_layer", "quick_python", "random_model", "whole_way")

settings.register_profile("the same in each run", derandomize=True)
if "EDGEYOLO_EXPLORE" not in os.environ:
    settings.load_profile("the same in each run")

REQUIRED = tuple(name for name in os.environ.get("EDGEYOLO_REQUIRE", "").split(",") if name)


def pytest_sessionstart() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # seen to by the process that started this one
        return
    for name in REQUIRED:
        if name == "bccd":
            if not (BCCD / "JPEGImages").is_dir():
                raise pytest.UsageError(f"EDGEYOLO_REQUIRE names bccd, and {BCCD} is not there")
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise pytest.UsageError(f"EDGEYOLO_REQUIRE names {name}, and it does not import: {error}") from error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = (report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)).lower()
        missing = [name for name in REQUIRED if name in reason]
        if missing:
            report.outcome = "failed"
            report.longrepr = f"skipped, although EDGEYOLO_REQUIRE names {', '.join(missing)}: {reason}"
    return report


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches of this run begin empty and leave nothing in the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEYOLO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
