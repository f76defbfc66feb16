"""kill -9 at random moments: what is left is absent, old or whole, and the next run ends well with the right result.

    python benchmarks/kill.py [--count 100] [--only train quantize deploy tune plan] [--minutes 13] [--seed 0]

The verbs, on drawn pictures and a small network: `train`, `quantize --qat`, `deploy` to ncnn, `bench --tune`, and the
build of a TensorRT plan into its cache (where tensorrt_rtx is installed). A case is a function of its number and the
seed: the verb, the moment, and whether an older output is there already. The killed process is a fork of one that has
imported everything, so that moments fall on work. After the kill the output is examined; then the verb runs again,
with --resume where there is something to go on from, and must give what a run that nobody killed gives. Anything else
is a finding, and the exit status is 1. Writes benchmarks/results/kill.json; what `--only` and `--minutes` leave undone
is done by the next call, of the same code.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import RESULTS, load_reusable, save_result

SIDE = 64
PICTURES = {"train": 16, "val": 8}
TRAIN = ["--model=yolov7-nano", "--image-size=64", "--batch=4", "--epochs=4"]
TRAIN += ["--workers=0", "--device=cpu", "--no-report"]
SHARES = {"train": 26, "quantize": 22, "deploy": 20, "plan": 20, "tune": 12}  # of 100 cases
LATE = 0.95  # the latest moment, as a part of the whole run
LIMIT_S = 600.0


def main() -> None:
    """Prepare, kill, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="cases in all")
    parser.add_argument("--only", nargs="+", choices=list(VERBS), default=list(VERBS))
    parser.add_argument(
        "--minutes", type=float, default=13.0, help="after which no case begins; call again for the rest"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "kill.json")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    known = load_reusable(args.out, seed=args.seed) or {"cases": []}
    verbs = [name for name in args.only if name != "plan" or _has_tensorrt()]
    done = {case["number"]: case for case in known["cases"]}
    numbers = [number for number in range(args.count) if verb_of(number, args.seed) in verbs and number not in done]
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as folder:
        work = Path(folder)
        _import_everything()
        started = time.perf_counter()
        bench = Bench(work, args.seed)
        bench.prepare(sorted({verb_of(number, args.seed) for number in numbers}))
        cases = bench.run_all(numbers, args.workers, time.monotonic() + 60 * args.minutes)
    done |= {case["number"]: case for case in cases}
    rows = [done[number] for number in sorted(done)]
    result = {
        "seed": args.seed,
        "kills": dict(sorted(Counter(row["verb"] for row in rows if row["killed"]).items())),
        "ended_before": sum(not row["killed"] for row in rows),
        "found": dict(sorted(Counter(f"{row['verb']}: {row['left']}" for row in rows).items())),
        "findings": [f"case {row['number']}, {row['verb']}: {row['finding']}" for row in rows if row["finding"]],
        "cases": rows,
    }
    save_result(args.out, result)
    sys.stdout.write("".join(f"{key}: {value}\n" for key, value in result.items() if key != "cases"))
    sys.stdout.write(f"{len(cases)} cases in {time.perf_counter() - started:.0f} s\n")
    sys.exit(1 if result["findings"] else 0)


def verb_of(number: int, seed: int) -> str:
    """What is killed in a case."""
    names = [name for name, share in SHARES.items() for _ in range(share)]
    random.Random(seed).shuffle(names)
    return names[number % len(names)]


@dataclass(frozen=True)
class Verb:
    """What is killed.

    Attributes:
        out: name of its output in a case's folder.
        command: of the command line, given the prepared folder, the output, and whether to go on; or a function.
        digest: what an output is, whatever does not matter left out; raises if it is not whole.
        is_there_before: whether an older output may be there.
        can_go_on: whether there is something to resume.
    """

    out: str
    command: Callable[[Path, Path, bool], list[str] | Callable[[], object]]
    digest: Callable[[Path], object]
    is_there_before: bool = True
    can_go_on: Callable[[Path], bool] = lambda out: False


class Bench:
    """What all cases share: the inputs of each verb, and the output and duration of a run that nobody killed."""

    def __init__(self, work: Path, seed: int) -> None:
        self._work, self._seed = work, seed
        self._inputs = work / "inputs"
        self._expected: dict[str, object] = {}
        self._seconds: dict[str, float] = {}

    def prepare(self, names: list[str]) -> None:
        """Make the inputs and run every verb once."""
        self._inputs.mkdir()
        code = run_child(lambda: make_inputs(self._inputs), self._work / "inputs.txt")
        assert code == 0, (self._work / "inputs.txt").read_text()
        for name in names:
            folder = self._make_folder(name, with_old=False)
            self._seconds[name], code = self._run(name, folder, False)
            assert code == 0, (folder / "log.txt").read_text()
            self._expected[name] = VERBS[name].digest(folder / VERBS[name].out)
            (folder / VERBS[name].out).replace(self._inputs / f"old-{VERBS[name].out}")
            _say(f"{name}: {self._seconds[name]:.1f} s undisturbed")

    def run_all(self, numbers: list[int], workers: int, end_s: float) -> list[dict[str, Any]]:
        """The cases, shared among some processes, as many as begin before the end."""
        children = []
        for worker in range(workers):
            path = self._work / f"cases-{worker}.json"
            if not (child := os.fork()):
                status = 1
                with contextlib.suppress(KeyboardInterrupt):
                    mine = numbers[worker::workers]
                    path.write_text(json.dumps([self.run(number) for number in mine if time.monotonic() < end_s]))
                    status = 0
                os._exit(status)
            children.append((child, path))
        failed = [child for child, _ in children if os.waitpid(child, 0)[1]]
        if failed:
            raise SystemExit("a process of this benchmark failed")
        return [case for _, path in children for case in json.loads(path.read_text())]

    def run(self, number: int) -> dict[str, Any]:
        """One case."""
        name = verb_of(number, self._seed)
        rng, verb = random.Random(f"{self._seed} {number}"), VERBS[name]
        with_old = verb.is_there_before and (name == "tune" or rng.random() < 0.5)
        moment_s = rng.uniform(0, LATE * self._seconds[name])
        folder = self._make_folder(f"case-{number}", with_old=with_old, verb=verb)
        out = folder / verb.out
        _, code = self._run(name, folder, False, kill_after_s=moment_s)
        left, finding = self._examine(name, out, with_old=with_old)
        is_going_on = verb.can_go_on(out)
        if not finding:
            _, again = self._run(name, folder, is_going_on)
            if again:
                finding = f"the next run ended with {again}: {(folder / 'log.txt').read_text()[-600:]}"
            elif (found := _try_digest(verb, out)) != self._expected[name]:
                finding = f"the next run gave another result: {found}"
        case = {"number": number, "verb": name, "seconds": round(moment_s, 3), "killed": code == -signal.SIGKILL}
        case |= {"old": with_old, "left": left, "resumed": is_going_on, "finding": finding}
        _say(json.dumps(case))
        if not finding:
            shutil.rmtree(folder)
        return case

    def _examine(self, name: str, out: Path, *, with_old: bool) -> tuple[str, str]:
        """What the kill left, and what is wrong with it."""
        verb = VERBS[name]
        if not out.exists():
            return "absent", "the older output is gone" if with_old else ""
        found = _try_digest(verb, out)
        if isinstance(found, Exception):
            return "broken", f"what the kill left does not open: {found!r}"
        return "whole", ""

    def _make_folder(self, name: str, *, with_old: bool, verb: Verb | None = None) -> Path:
        folder = self._work / name
        folder.mkdir()
        if with_old and verb:
            old = self._inputs / f"old-{verb.out}"
            (shutil.copytree if old.is_dir() else shutil.copy)(old, folder / verb.out)
        elif name == "tune":
            shutil.copy(self._inputs / "host.eyb", folder / VERBS["tune"].out)
        return folder

    def _run(self, name: str, folder: Path, resume: bool, *, kill_after_s: float = 0.0) -> tuple[float, int]:
        """Seconds and exit code of the verb in a child."""
        os.environ["EDGEYOLO_CACHE"] = str(folder / "cache")
        command = VERBS[name].command(self._inputs, folder / VERBS[name].out, resume)
        began = time.perf_counter()
        work = command if callable(command) else lambda: run_command(command)
        code = run_child(work, folder / "log.txt", kill_after_s=kill_after_s)
        return time.perf_counter() - began, code


def run_child(work: Callable[[], object], log: Path, *, kill_after_s: float = 0.0) -> int:
    """Exit code of `work` in a fork, negative for a signal."""
    child = os.fork()
    if not child:
        _live(work, log)
    began = time.perf_counter()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        passed_s = time.perf_counter() - began
        if (kill_after_s and passed_s >= kill_after_s) or passed_s > LIMIT_S:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGKILL
        time.sleep(0.002)


def _live(work: Callable[[], object], log: Path) -> None:
    """The life of the child, which does not return."""
    code = 1
    try:
        os.setsid()
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def run_command(arguments: list[str]) -> None:
    """`edgeyolo` with arguments."""
    from edgeyolo.cli.app import main as run

    sys.argv = ["edgeyolo", *arguments]
    run()


def make_inputs(folder: Path) -> None:
    """Pictures, a checkpoint, an exported network, a bundle and a recipe."""
    from edgeyolo import verbs
    from edgeyolo.data.drawn import draw_dataset

    draw_dataset(folder / "data", PICTURES, image_hw=(96, 96), kind="easy")
    (folder / "quick.toml").write_text(
        'title = "quick"\nobserver = "max"\ncount = 8\n[qat]\nepochs = 3\nbatch = 4\nlearning_rate = 1e-4\n'
    )
    with contextlib.suppress(SystemExit):
        run_command(["train", "--data", str(folder / "data"), "--out", str(folder / "run"), *TRAIN])
    checkpoint = folder / "run" / "best.safetensors"
    quick = verbs.QuantizeOptions(report=False, evaluate=False)
    verbs.quantize(checkpoint, folder / "data", folder / "int8", recipe=str(folder / "quick.toml"), options=quick)
    verbs.deploy(folder / "int8", "host-ncnn", folder / "host.eyb")


def _train(inputs: Path, out: Path, resume: bool) -> list[str]:
    return ["train", "--data", str(inputs / "data"), "--out", str(out), *TRAIN, *(["--resume"] if resume else [])]


def _quantize(inputs: Path, out: Path, resume: bool) -> list[str]:
    source = [str(inputs / "run" / "best.safetensors"), "--data", str(inputs / "data"), "--out", str(out)]
    how = ["--recipe", str(inputs / "quick.toml"), "--qat", "--no-report", "--no-evaluate"]
    return ["quantize", *source, *how, *(["--resume"] if resume else [])]


def _deploy(inputs: Path, out: Path, resume: bool) -> list[str]:
    return ["deploy", str(inputs / "int8"), "--target", "host-ncnn", "--out", str(out)]


def _tune(inputs: Path, out: Path, resume: bool) -> list[str]:
    return ["bench", str(out), "--tune", "--image", str(next((inputs / "data").rglob("*.jpg"))), "--runs", "5"]


def _plan(inputs: Path, out: Path, resume: bool) -> Callable[[], object]:
    def build() -> None:
        from edgeyolo.backends.tensorrt import compile_for
        from edgeyolo.backends.tensorrt.cache import PlanKey, cached_plan
        from edgeyolo.backends.tensorrt.options import make_options
        from edgeyolo.spec.provenance import sha256_of

        path, options = inputs / "int8" / "model.onnx", make_options({"package": "tensorrt_rtx"})
        key = PlanKey(
            onnx_sha256=sha256_of(path),
            gpu="none",
            compute_capability="8.6",
            package=options.package,
            version="0",
            precision="fp32",
            options={},
        )
        cached_plan(key, lambda: compile_for(path, options, "fp32", capability="8.6"), folder=out)

    return build


def _train_digest(out: Path) -> object:
    """The weights of both checkpoints, or of those that there are."""
    from edgeyolo.training.checkpoint import load_checkpoint

    found = {}
    for name in ("best", "last"):
        path = out / f"{name}.safetensors"
        if path.exists():
            state = load_checkpoint(path).model.state_dict()
            found[name] = _sha256(*(state[key].numpy().tobytes() for key in sorted(state)))
    return found


def _quantize_digest(out: Path) -> object:
    from edgeyolo.spec.qparams import load_qparams

    load_qparams(out / "qparams.json")
    return _sha256((out / "model.onnx").read_bytes(), (out / "qparams.json").read_bytes())


def _deploy_digest(out: Path) -> object:
    from edgeyolo.bundle import open_bundle

    with open_bundle(out) as bundle:
        names = sorted(bundle.manifest.artefact.files.values())
        return _sha256(*((bundle.folder / name).read_bytes() for name in names))


def _tune_digest(out: Path) -> object:
    """The artefact's files, which tuning leaves alone; and it detects."""
    import numpy as np

    from edgeyolo.runtime import Detector

    with Detector.load(out, threads=1) as detector:
        detector.detect(np.zeros((96, 96, 3), np.uint8))
    return _deploy_digest(out)


def _plan_digest(out: Path) -> object:
    """The plans that have a record, each what its record says."""
    from edgeyolo.backends.tensorrt.cache import PlanRecord
    from edgeyolo.spec.strict import load_json

    found = []
    for path in sorted(out.glob("*.json")):
        record, plan = load_json(path, PlanRecord), path.with_suffix(".plan").read_bytes()
        assert record.plan_sha256 == _sha256(plan), "the plan is not what its record says"
        found.append(len(plan))
    return found


def _try_digest(verb: Verb, out: Path) -> object:
    try:
        return verb.digest(out)
    except Exception as error:  # whatever it is, it is what is looked for
        return error


def _sha256(*parts: bytes) -> str:
    import hashlib

    return hashlib.sha256(b"".join(parts)).hexdigest()


def _has_tensorrt() -> bool:
    import importlib.util

    return importlib.util.find_spec("tensorrt_rtx") is not None


def _import_everything() -> None:
    """What the verbs load, so that forks have it; nothing is run, for threads do not survive a fork."""
    import importlib

    names = "cli.app verbs training export report.training_plots runtime backends.ncnn backends.onnxruntime"
    for name in names.split():
        importlib.import_module(f"edgeyolo.{name}")
    for name in ("torch", "onnxruntime", "ncnn", "pycocotools.cocoeval", "modelopt.torch.quantization"):
        importlib.import_module(name)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


VERBS = {
    "train": Verb("run", _train, _train_digest, False, lambda out: (out / "last.safetensors").is_file()),
    "quantize": Verb(
        "int8", _quantize, _quantize_digest, True, lambda out: Path(f"{out}.work/qat/last.safetensors").is_file()
    ),
    "deploy": Verb("host.eyb", _deploy, _deploy_digest),
    "tune": Verb("tuned.eyb", _tune, _tune_digest),
    "plan": Verb("plans", _plan, _plan_digest, False),
}

if __name__ == "__main__":
    main()
