"""Photographs of blood cells, for tests that need real pictures; CONTRIBUTING.md says how to get them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BCCD = Path(os.environ.get("EDGEYOLO_BCCD") or Path(__file__).parents[2] / "../shared/data/bccd")

needs_bccd = pytest.mark.skipif(not BCCD.is_dir(), reason=f"the bccd data set is not at {BCCD}: no real pictures")
