from __future__ import annotations

import pytest
from whole_way import WholeWay, make_whole_way


@pytest.fixture(scope="session")
def whole_way(tmp_path_factory: pytest.TempPathFactory) -> WholeWay:
    return make_whole_way(tmp_path_factory.mktemp("whole-way"))
