"""How often `bench --compare` is right: of two bundles that are the same, and where one is 10 % slower.

    python benchmarks/compare_bundles.py [--bundle cells.eyb] [--repeats 20] [--seconds 4]

Each comparison is one of `edgeyolo.runtime.compare`, which is what the command runs. Four cases: the same bundle twice,
and a slowdown planted in the second, each on an idle machine and beside one core that a plain loop has taken. The
slowdown lies in the network's stage: whatever a run took, the session waits for a tenth of that, busily, before it
answers. The cases take turns, so that all of them see the machine at its best and at its worst. Without a bundle,
yolov7-nano of random weights is made, 320 x 320, int8 by ncnn.

Goals: the interval holds 1.0 in at least 19 of 20 of the same, and is above 1.0 in at least 19 of 20 of the slower,
for the network and for the whole call. Eight minutes at most. Writes benchmarks/results/compare_bundles.json.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from record import RESULTS, save_result

from edgeyolo import models, verbs
from edgeyolo.backends import Session
from edgeyolo.bundle import for_this_device, open_bundle
from edgeyolo.export import export_model
from edgeyolo.quantization import quantize
from edgeyolo.runtime import Detector
from edgeyolo.runtime.compare import Effort, compare, openers_of
from edgeyolo.runtime.processor import open_session
from edgeyolo.spec.detections import Pixels
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.recipe import Recipe

MODEL, SIDE = "yolov7-nano", 320
SLOWDOWN = 0.10
GOAL = 0.95
SETTLE_S = 0.5  # after the loop was started or stopped
PARTS = ("network", "total")


def main() -> None:
    """Compare, count, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one comparison, at most")
    parser.add_argument("--out", type=Path, default=RESULTS / "compare_bundles.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        bundle = arguments.bundle or make_bundle(Path(work))
        rows = measure(bundle, arguments.repeats, Effort(seconds=arguments.seconds))
    cases = [summarize(rows, planted, is_busy) for is_busy in (False, True) for planted in (0.0, SLOWDOWN)]
    save_result(
        arguments.out, {"seconds": arguments.seconds, "repeats": arguments.repeats, "cases": cases, "rows": rows}
    )
    sys.stdout.write(markdown(cases))


def make_bundle(work: Path) -> Path:
    """An int8 bundle of random weights: times do not depend on them."""
    network = models.create(MODEL, 3).eval()
    spec = ModelSpec(
        name=MODEL,
        activation=network.config.activation,
        class_names=("a", "b", "c"),
        input=network.make_input_spec((SIDE, SIDE)),
        decode=network.decode,
    )
    images = np.random.default_rng(0).random((2, 3, SIDE, SIDE), dtype=np.float32)
    recipe = Recipe(title="random pictures", observer="max", count=2)
    quantized = quantize(network, [images], recipe, recipe_name="max", picture_hashes={"0": "", "1": ""})
    export_model(quantized, spec, work / MODEL)
    return verbs.deploy(work / MODEL, "host-ncnn", work / "random.eyb").bundle


def measure(bundle: Path, repeats: int, effort: Effort) -> list[dict[str, Any]]:
    """A row for every comparison."""
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    rows: list[dict[str, Any]] = []
    for repeat in range(repeats):
        for is_busy in (False, True):
            with burning() if is_busy else contextlib.nullcontext():
                time.sleep(SETTLE_S)
                same, threads = openers_of((bundle, bundle), 0, picture)
                for planted in (0.0, SLOWDOWN):
                    openers = [same[0], slowed(bundle, planted) if planted else same[1]]
                    began_s = time.perf_counter()
                    found = compare(openers, picture, effort, other="the second", threads=threads)
                    told = msgspec.to_builtins(found)
                    seconds = time.perf_counter() - began_s
                    rows.append({"planted": planted, "busy": is_busy, "seconds": seconds, **told})
        sys.stderr.write(f"{repeat + 1}/{repeats}\n")
    return rows


@contextlib.contextmanager
def burning() -> Iterator[None]:
    """One core is taken by a plain loop."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as loop:
        try:
            yield
        finally:
            loop.kill()


class Slowed:
    """A session that takes longer by a share of whatever it took.

    Args:
        close: closes it, and what it was opened from.
    """

    def __init__(self, session: Session, share: float, close: Callable[[], None]) -> None:
        self._session, self._share, self.close = session, share, close

    def run(self, images: Pixels) -> list[npt.NDArray[np.float32]]:
        """See `Session.run`."""
        started_s = time.perf_counter()
        maps = self._session.run(images)
        end_s = started_s + (1 + self._share) * (time.perf_counter() - started_s)
        while time.perf_counter() < end_s:
            pass
        return maps


def slowed(bundle: Path, share: float) -> Callable[[int], Detector]:
    """Opens the bundle with a slower session."""

    def open_(threads: int) -> Detector:
        with contextlib.ExitStack() as opening:
            opened = opening.enter_context(open_bundle(bundle))
            manifest = for_this_device(opened.manifest)
            session = open_session(opened.folder, manifest, threads=threads)
            opening.callback(session.close)
            return Detector(Slowed(session, share, opening.pop_all().close), manifest.model, manifest=manifest)

    return open_


def summarize(rows: list[dict[str, Any]], planted: float, is_busy: bool) -> dict[str, Any]:
    """How often the interval said what is so, in one case."""
    ours = [row for row in rows if (row["planted"], row["busy"]) == (planted, is_busy)]
    counted: dict[str, Any] = {}
    for part in PARTS:
        right = [low > 1 if planted else low <= 1 <= high for _, low, high in (row[part] for row in ours)]
        counted[part] = {
            "right": sum(right),
            "holds": sum(right) >= GOAL * len(ours),
            "ratio": statistics.median(row[part][0] for row in ours),
            "width": statistics.median(row[part][2] - row[part][1] for row in ours),
            "widest": max(row[part][2] - row[part][1] for row in ours),
        }
    return {
        "planted": planted,
        "busy": is_busy,
        "comparisons": len(ours),
        "seconds": statistics.median(row["seconds"] for row in ours),
        "rounds": statistics.median(row["rounds"] for row in ours),
        **counted,
    }


def markdown(cases: list[dict[str, Any]]) -> str:
    """A table to look at."""
    lines = ["| the second | machine | right, network | right, call | ratio | width, widest | rounds | s | goal |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|---|")
    for case in cases:
        what = f"{case['planted']:.0%} slower" if case["planted"] else "the same"
        rights = [f"{case[part]['right']} of {case['comparisons']}" for part in PARTS]
        network = case["network"]
        figures = [f"{network['ratio']:.3f}", f"{network['width']:.3f}, {network['widest']:.3f}"]
        figures += [f"{case['rounds']:.0f}", f"{case['seconds']:.1f}"]
        held = "held" if all(case[part]["holds"] for part in PARTS) else "missed"
        cells = [what, "one core busy" if case["busy"] else "idle", *rights, *figures, held]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
