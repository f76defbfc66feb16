"""The cache: what fits, what is shared, what is copied."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeyolo.data.picture_cache import PictureCache


def picture(seed: int, hw: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8)


def test_pictures_come_back_and_the_limit_holds() -> None:
    sizes = [(300, 400), (512, 256), (700, 500)]  # 0.34, 0.375 and 1.0 MiB
    cache = PictureCache(sizes, limit_mib=1)
    for i, hw in enumerate(sizes):
        assert cache.find(i) is None
        cache.store(i, picture(i, hw))
    assert (cache.find(0) == picture(0, sizes[0])).all() and (cache.find(1) == picture(1, sizes[1])).all()
    assert cache.find(2) is None


def test_no_memory_at_all() -> None:
    cache = PictureCache([(4, 4)], limit_mib=0)
    cache.store(0, picture(0, (4, 4)))
    assert cache.find(0) is None
    assert cache.mark_broken(0) and not cache.mark_broken(0) and cache.is_broken(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_fills_the_same_memory() -> None:
    cache = PictureCache([(30, 40), (30, 40)], limit_mib=1)
    child = os.fork()
    if child == 0:
        cache.store(1, picture(5, (30, 40)))
        cache.mark_broken(0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (cache.find(1) == picture(5, (30, 40))).all()
    assert cache.is_broken(0) and cache.find(0) is None


def test_a_copy_starts_empty() -> None:
    cache = PictureCache([(3, 3)], limit_mib=1)
    cache.store(0, picture(0, (3, 3)))
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.find(0) is None
    copy.store(0, picture(1, (3, 3)))
    assert (cache.find(0) == picture(0, (3, 3))).all() and (copy.find(0) == picture(1, (3, 3))).all()


def test_on_disk_it_is_the_same_and_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = PictureCache([(30, 40), (30, 40)], limit_mib=1, folder=tmp_path / "new")
    child = os.fork()
    if child == 0:
        cache.store(1, picture(5, (30, 40)))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (cache.find(1) == picture(5, (30, 40))).all() and cache.find(0) is None
    assert list((tmp_path / "new").iterdir()) == []
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.find(1) is None


def test_a_disk_without_room_is_said_at_once(tmp_path: Path) -> None:
    """A limit on the size of files is the kernel's own way to say that there is no room."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from edgeyolo.data.picture_cache import PictureCache\n"
        "from edgeyolo.spec.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try:\n"
        "    PictureCache([(600, 500)], limit_mib=1, folder=Path(sys.argv[1]))\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert "cannot be kept there" in done.stdout and "cache_mib" in done.stdout
