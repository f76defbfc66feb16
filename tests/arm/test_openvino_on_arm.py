"""OpenVINO's own aarch64 wheel on an emulated core: the raw maps of this machine. It is fetched for the test, 30 MB."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from whole_way import WholeWay

from edgeyolo.backends import open_artefact
from edgeyolo.bundle import open_bundle

WHEEL = "openvino==2026.4.1 --hash=sha256:bea1eb3733c34ef331adc945da0ccda5937865031139073663be84c517ffda22"
PLATFORM = "manylinux_2_35_aarch64"
NEAR = 0.05  # rms between maps, in standard deviations; a value on the edge of a rounding step falls either way
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from edgeyolo.backends import open_artefact
from edgeyolo.bundle import open_bundle
with open_bundle(Path(sys.argv[2])) as bundle:
    session = open_artefact(bundle.folder, bundle.manifest.artefact, bundle.manifest.model, threads=1)
    np.savez(sys.argv[4], *session.run(np.load(sys.argv[3])))
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The wheel, unpacked where the emulated Python finds it."""
    (tmp_path / "requirements.txt").write_text(WHEEL + "\n")
    wheels = ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311"]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", f"--platform={PLATFORM}"]
    target = ["--target", str(tmp_path / "site"), "--requirement", str(tmp_path / "requirements.txt")]
    command = [sys.executable, "-m", "pip", "install", *options, *wheels, *target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the package index has no such wheel, or is out of reach: {done.stderr.strip()[-300:]}")
    return tmp_path / "site"


@pytest.mark.slow
def test_maps_of_a_core_with_dot_products(
    site: Path, start_on_arm: Callable[..., subprocess.CompletedProcess[str]], whole_way: WholeWay, tmp_path: Path
) -> None:
    bundle = whole_way.bundles["host-openvino"]
    with open_bundle(bundle) as opened:
        spec = opened.manifest.model
        session = open_artefact(opened.folder, opened.manifest.artefact, spec, threads=1)
        images = np.random.default_rng(0).random((1, 3, *spec.input.image_hw), dtype=np.float32)
        wanted = session.run(images)
        session.close()
    np.save(tmp_path / "images.npy", images)
    files = (site, bundle.resolve(), tmp_path / "images.npy", tmp_path / "maps.npz")
    done = start_on_arm("cortex-a76", "-c", SCRIPT, *files)
    assert done.returncode == 0, done.stderr
    found = list(np.load(tmp_path / "maps.npz").values())
    assert len(found) == len(wanted)
    assert all(np.sqrt(np.mean((a - b) ** 2)) < NEAR * b.std() for a, b in zip(found, wanted, strict=True))
