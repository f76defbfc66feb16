"""Altered bundles against the runtime: each must load and run, or be refused with one of edgeyolo's own errors.

    python benchmarks/fuzz.py --count 100000 [--bundle cells.eyb ...] [--seed 0] [--out benchmarks/results/fuzz.json]

A case is a valid bundle with an altered .param, .bin or manifest.json (the digests made to fit, so that the engine is
reached), or an altered archive. It goes the way of a user's: `Detector.load`, then one picture. The cases run in child
processes of limited memory; one that dies, or does not finish a case within five seconds, is a finding, and so is an
exception that is no EdgeYoloError. Every case is a function of its number and the seed: --only 1234 runs it again in
this process. Bundles to alter: a network of every layer kind, made here, and those of --bundle.
"""

from __future__ import annotations

import argparse
import json
import logging
import mmap
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_edits import alter_archive, alter_bin, alter_manifest, alter_param
from record import save_result

from edgeyolo.backends.ncnn.files import Blob, list_weight_sizes, parse_param, write_bin
from edgeyolo.bundle import open_bundle, write_bundle
from edgeyolo.runtime import Detector
from edgeyolo.spec.errors import EdgeYoloError
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.strict import encode_json

ROOT = Path(__file__).parents[1]
HANG_S = 5.0
MEMORY_BYTES = 4 << 30
BATCH = 5000  # cases of one child
MOST_BYTES = 1 << 16  # a bundle larger than this is altered more rarely, since its cases take longer
RARELY = 0.06
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)

# Every layer kind that a bundle may have, on 32 x 32 pixels.
PARAM = """7767517
37 45
Input in0 0 1 in0 0=32 1=32 2=3
Convolution c0 1 1 in0 a 0=8 1=3 3=2 4=1 5=1 6=216 9=1
Split s0 1 5 a a0 a1 a2 a3 a4
ConvolutionDepthWise dw 1 1 a0 b 0=8 1=3 4=1 5=1 6=72 7=8 9=2 -23310=1,0.1
HardSwish hw 1 1 b b1 0=0.1666667 1=0.5
BatchNorm bn 1 1 b1 b2 0=8
Scale sc 1 1 b2 b3 0=8 1=1
PReLU pr 1 1 b3 b4 0=8
Slice sl 1 2 a1 d e -23300=2,4,-233 1=0
Swish sw 1 1 d d1
Clip cl 1 1 e e1 0=0.0 1=6.0
Concat c1 2 1 d1 e1 f 0=0
Pooling mp 1 1 a2 g 0=0 1=3 2=1 3=1 5=1
BinaryOp ad 2 1 f g h 0=0
UnaryOp ab 1 1 h h1 0=0
Convolution q8 1 1 a3 q 0=8 1=3 4=1 5=1 6=576 8=2 9=1
Pooling p2 1 1 q q1 0=1 1=2 2=2
Split s1 1 2 q1 q2 q3
Interp up 1 1 q2 q4 0=1 1=2.0 2=2.0
Deconvolution dc 1 1 q3 q5 0=8 1=2 3=2 5=1 6=256
Concat c2 2 1 q4 q5 q6 0=0
Split s2 1 3 h1 h2 h3 h4
Pooling gp 1 1 h2 v 0=1 4=1
InnerProduct ip 1 1 v v1 0=8 1=1 2=64 9=4
BinaryOp mu 2 1 h3 v1 h5 0=2
Reduction re 1 1 h4 r 0=3 1=0 -23303=2,1,2 4=1 5=1
MemoryData md 0 1 m 0=1 1=1 2=8
BinaryOp ma 2 1 r m r1 0=0
HardSigmoid hs 1 1 r1 r2 0=0.2 1=0.5
BinaryOp mb 2 1 h5 r2 h6 0=2
Sigmoid sg 1 1 a4 t1
TanH th 1 1 t1 t2
Mish mi 1 1 t2 t3
GELU ge 1 1 t3 t4 0=1
ReLU rl 1 1 t4 t5 0=0.1
Concat c3 4 1 b4 q6 h6 t5 z 0=0
Convolution out 1 1 z out0 0=6 1=3 3=4 4=1 5=1 6=2160
"""
SPEC = ModelSpec(
    name="every-kind",
    activation="relu",
    class_names=("a",),
    input=InputSpec(image_hw=(32, 32)),
    decode=AnchorDecode(strides=(8,), anchors_wh=(((8.0, 8.0),),)),
)


@dataclass(frozen=True)
class Base:
    """A valid bundle: its manifest as JSON, its files, and the archive."""

    manifest: bytes
    files: dict[str, bytes]
    archive: bytes

    @property
    def is_small(self) -> bool:
        """Whether its cases are quick."""
        return len(self.archive) <= MOST_BYTES


def main() -> None:
    """Run the cases in children, or one of them here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument("--only", type=int, help="run this case here, and keep its files in --keep")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-case"))
    parser.add_argument("--out", type=Path, default=None, help="such as benchmarks/results/fuzz.json")
    parser.add_argument("--worker", nargs=3, metavar=("FIRST", "LAST", "PROGRESS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    bases = [make_base(), *map(read_base, arguments.bundle)]
    if arguments.only is not None:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        sys.stdout.write(run_case(bases, arguments.seed, arguments.only, arguments.keep) + "\n")
    elif arguments.worker:
        first, last, progress = arguments.worker
        work(bases, arguments.seed, range(int(first), int(last)), Path(progress))
    else:
        result = supervise(arguments.count, arguments.seed, arguments.bundle)
        if arguments.out:
            save_result(arguments.out, result)
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        sys.exit(1 if result["findings"] else 0)


def make_base() -> Base:
    """The network of every kind, with seeded weights."""
    rng = np.random.default_rng(1)
    layers = []
    for layer in parse_param(PARAM, where="param"):
        blobs = []
        for i, (count, tagged) in enumerate(list_weight_sizes(layer)):
            values = rng.uniform(0.05, 0.5, count).astype(np.float32)
            if layer.integer(8) and i == 0:
                blobs.append(Blob(rng.integers(-127, 128, count).astype(np.int8), tagged))
            else:
                blobs.append(Blob(values, tagged))
        layers.append(type(layer)(layer.kind, layer.name, layer.inputs, layer.outputs, layer.params, tuple(blobs)))
    artefact = Artefact(
        engine="ncnn",
        engine_version="1",
        precision="int8",
        files={"param": "net.param", "bin": "net.bin"},
        options={"use_winograd43_convolution": False},
    )
    manifest = Manifest(model=SPEC, target="host-cpu", artefact=artefact, sha256={}, threads=1)
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work_folder:
        folder = Path(work_folder)
        (folder / "net.param").write_text(PARAM)
        (folder / "net.bin").write_bytes(write_bin(layers))
        write_bundle(folder / "net.eyb", manifest, folder)
        return read_base(folder / "net.eyb")


def read_base(path: Path) -> Base:
    """A bundle of an ncnn target, in memory."""
    with open_bundle(path) as bundle:
        files = {role: (bundle.folder / name).read_bytes() for role, name in bundle.manifest.artefact.files.items()}
        return Base(encode_json(bundle.manifest), files, path.read_bytes())


def run_case(bases: list[Base], seed: int, number: int, folder: Path) -> str:
    """Make one case in `folder` and use it: "valid", the error's kind, or a traceback's end for a finding."""
    rng = random.Random(f"{seed}/{number}")
    small = [base for base in bases if base.is_small]
    large = [base for base in bases if not base.is_small]
    base = rng.choice(large) if large and rng.random() < RARELY else rng.choice(small)
    kind = rng.choices(("param", "bin", "manifest", "archive"), (55, 15, 15, 15))[0]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if kind == "archive":
        path = folder / "case.eyb"
        path.write_bytes(alter_archive(rng, base.archive))
    else:
        path = folder
        manifest, files = json.loads(base.manifest), dict(base.files)
        if kind == "param":
            files["param"] = alter_param(rng, files["param"])
        elif kind == "bin":
            files["bin"] = alter_bin(rng, files["bin"])
        for role, name in manifest["artefact"]["files"].items():
            (folder / name).write_bytes(files[role])
            manifest["sha256"][name] = sha256_of(folder / name)
        raw = json.dumps(manifest).encode()
        (folder / "manifest.json").write_bytes(alter_manifest(rng, raw) if kind == "manifest" else raw)
    try:
        with Detector.load(path, threads=1) as detector:
            detector.detect(PICTURE)
    except EdgeYoloError as error:
        return f"{kind}: {type(error).__name__}"
    except Exception as error:
        return f"FINDING {kind}: {type(error).__name__}: {error}"
    return f"{kind}: valid"


def work(bases: list[Base], seed: int, numbers: range, progress: Path) -> None:
    """In a child: run the cases one after the other and count the outcomes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    counts: Counter[str] = Counter()
    with progress.open("r+b") as stream, tempfile.TemporaryDirectory(prefix="edgeyolo-", dir=shared_memory()) as folder:
        shown = mmap.mmap(stream.fileno(), 8)
        (Path(folder) / "base.eyb").write_bytes(bases[0].archive)
        with Detector.load(
            Path(folder) / "base.eyb", threads=1
        ) as detector:  # the first case need not wait for imports
            detector.detect(PICTURE)
        for number in numbers:
            shown[:] = struct.pack("<q", number)
            outcome = run_case(bases, seed, number, Path(folder) / "case")
            if outcome.startswith("FINDING"):
                sys.stdout.write(json.dumps({"case": number, "what": outcome}) + "\n")
                sys.stdout.flush()
            else:
                counts[outcome] += 1
    sys.stdout.write(json.dumps({"counts": counts}) + "\n")


def supervise(count: int, seed: int, bundles: list[Path]) -> dict[str, Any]:
    """Start child after child; one that dies or hangs is a finding, and the next goes on after that case."""
    started = time.monotonic()
    findings: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    position = 0
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as folder:
        while position < count:
            last = min(position + BATCH, count)
            position, found, counted = run_child(Path(folder), seed, position, last, bundles)
            findings += found
            counts.update(counted)
            sys.stderr.write(f"{position} cases in {time.monotonic() - started:.0f} s, {len(findings)} findings\n")
            for finding in found:
                sys.stderr.write(f"{finding}\n")
    seconds = time.monotonic() - started
    return {
        "cases": count,
        "seed": seed,
        "seconds": round(seconds, 1),
        "cases_per_second": round(count / seconds, 1),
        "outcomes": dict(sorted(counts.items())),
        "findings": findings,
    }


def run_child(
    folder: Path, seed: int, first: int, last: int, bundles: list[Path]
) -> tuple[int, list[dict[str, Any]], Counter[str]]:
    """One child from case `first` on: where to go on, what it found, and its outcomes."""
    progress, said = folder / "progress", folder / "said"
    progress.write_bytes(struct.pack("<q", -1))
    command = [sys.executable, __file__, "--seed", str(seed), "--worker", str(first), str(last), str(progress)]
    for bundle in bundles:
        command += ["--bundle", str(bundle)]
    with said.open("wb") as sink:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment)
        hung = wait_for(child, progress)
    text = said.read_text(errors="replace")
    records = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    found = [record for record in records if "case" in record]
    counts = Counter({key: n for record in records for key, n in record.get("counts", {}).items()})
    if child.returncode == 0 and not hung:
        return last, found, counts
    case = struct.unpack("<q", progress.read_bytes())[0]
    tail = [line for line in text.splitlines() if not line.startswith("{")][-3:]
    what = f"FINDING: no end within {HANG_S:g} s" if hung else f"FINDING: the process ended with {child.returncode}"
    if case < 0:
        raise SystemExit(f"the child does not start: {text}")
    counts["not counted: cases of a child that did not end"] += case - first
    return case + 1, [*found, {"case": case, "what": what, "said": tail}], counts


def wait_for(child: subprocess.Popen[bytes], progress: Path) -> bool:
    """Wait for the end of the child; kill it and say so if one case takes too long."""
    seen, since = b"", time.monotonic()
    while child.poll() is None:
        time.sleep(0.1)
        now = progress.read_bytes()
        if now != seen:
            seen, since = now, time.monotonic()
        limit = HANG_S if seen != struct.pack("<q", -1) else 60.0
        if time.monotonic() - since > limit:
            child.kill()
            child.wait()
            return True
    return False


def shared_memory() -> Path | None:
    """A folder that is no disk, where there is one: a case writes a few small files."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else None


if __name__ == "__main__":
    main()
