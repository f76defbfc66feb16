"""What `bench`, `evaluate` and `deploy` do with boards at the end of a wire: who is asked, how answers are shown."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeyolo.cli._bench import check_gate, draw, show_layers, write_csv
from edgeyolo.cli.console import Console
from edgeyolo.spec.benchmark import BenchRecord, Spread
from edgeyolo.spec.boards import FleetBoard, FleetOptions, HostOptions
from edgeyolo.spec.deploying import EvaluateOptions
from edgeyolo.spec.detecting import BenchOptions
from edgeyolo.spec.errors import EdgeYoloError, UnfinishedError, UsageError
from edgeyolo.spec.layers import LayerReport
from edgeyolo.spec.progress import Progress

if TYPE_CHECKING:
    from edgeyolo.boards import Wire

# Options of bench that go to the board as they are.
_SENT = (
    "runs",
    "width",
    "seconds",
    "warmup",
    "threads",
    "minutes",
    "max_ms",
)


class _Together:
    """A progress that several threads tell."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._lock = progress, threading.Lock()

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        """Tell it on."""
        with self._lock:
            self._progress.step(stage, done, total, text)


def bench_on_hosts(console: Console, bundle: Path, options: BenchOptions, hosts: HostOptions) -> None:
    """Time a bundle on every host, and show what they say."""
    from edgeyolo.boards.work import Workplace

    words = _words_of(options)
    files = {f"--{name}": path for name in ("image", "compare") if (path := getattr(options, name)) is not None}

    def job(wire: Wire, progress: Progress) -> dict[str, Any]:
        place = Workplace(wire, bundle, wheelhouse=hosts.wheelhouse, progress=progress)
        record = place.bench(bundle, words, files=files)
        if hosts.clean:
            wire.ask("clean")
        return {"host": wire.address.host, **record}

    records = _at_hosts(console, hosts, job)
    rows = [
        (r["host"], *(r["spread"][part]["median_ms"] for part in ("pre", "network", "post", "total"))) for r in records
    ]
    if rows:
        console.show_table(["board", "pre ms", "network ms", "post ms", "total ms (medians)"], rows)
    for record in records:
        for reason in record["throttled"]:
            console.warn(f"{record['host']} was slowed down: {reason}")
        if record["layers"] is not None:
            show_layers(console, msgspec.convert(record["layers"], LayerReport))
        check_gate(Spread(**record["spread"]["total"]), options.max_ms, record["host"], console)
    if options.csv is not None:
        write_csv(options.csv, records, console)
    if options.plot is not None and records:
        draw(options.plot, {r["host"]: _record_of(r) for r in records}, console)


def _record_of(told: dict[str, Any]) -> BenchRecord:
    return msgspec.convert({name: value for name, value in told.items() if name != "host"}, BenchRecord)


def evaluate_on_hosts(console: Console, bundle: Path, data: Path, options: EvaluateOptions, hosts: HostOptions) -> None:
    """Measure a bundle's accuracy on every host."""
    from edgeyolo import verbs
    from edgeyolo.boards.pictures import pack_split
    from edgeyolo.boards.work import Workplace
    from edgeyolo.bundle import read_manifest
    from edgeyolo.heads import box_head_of

    if options.record or options.reference is not None:
        raise UsageError("--record and --reference are not for boards over ssh", hint="Leave them out")
    spec = read_manifest(bundle).model
    box_head_of(spec.decode)  # joints are not measured over ssh
    dataset = verbs.open_measured(data, options.split, spec)
    words = ["--threads", str(options.threads), *(("--nms", options.nms) if options.nms else ())]
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as folder:
        pictures = Path(folder) / f"{dataset.split}.zip"
        with console.show_progress() as shown:
            pack_split(dataset, pictures, shown)

        def job(wire: Wire, progress: Progress) -> dict[str, Any]:
            place = Workplace(wire, bundle, extras=["evaluate"], wheelhouse=hosts.wheelhouse, progress=progress)
            score = place.evaluate(bundle, pictures, words) | {"data": dataset.name, "split": dataset.split}
            if hosts.clean:
                wire.ask("clean")
            return {"host": wire.address.host, **score}

        scores = _at_hosts(console, hosts, job)
    columns = ("host", "artefact", "split", "images", "boxes", "ap", "ap50", "ap75")
    console.show_table(columns, [tuple(score[column] for column in columns) for score in scores])


def install_on_hosts(console: Console, bundle: Path, hosts: HostOptions) -> None:
    """Put a bundle in its place on every host."""
    from edgeyolo.boards.work import Workplace

    if not bundle.is_file():
        raise UsageError("is no bundle file, which is what --host installs", where=bundle)

    def job(wire: Wire, progress: Progress) -> dict[str, Any]:
        done = Workplace(wire, bundle, wheelhouse=hosts.wheelhouse, progress=progress).install(bundle)
        return {"host": wire.address.host, **done}

    for done in _at_hosts(console, hosts, job):
        what = "Installed" if done["changed"] else "It is there already:"
        console.say(f"{done['host']}: {what} {done['path']} (version {done['version']})")


def roll_back_on_hosts(console: Console, bundle: Path, hosts: HostOptions) -> None:
    """Lead back to the bundle before, on every host."""
    from edgeyolo.boards.work import roll_back

    def job(wire: Wire, progress: Progress) -> dict[str, Any]:
        return {"host": wire.address.host, **roll_back(wire, bundle.name)}

    for done in _at_hosts(console, hosts, job):
        console.say(f"{done['host']}: {done['path']} is version {done['version']} again")


def bench_on_fleet(
    console: Console, models: Sequence[Path], options: BenchOptions, hosts: HostOptions, fleet: FleetOptions
) -> None:
    """Time on every board of the fleet's file what fits it; go on with the table that is there."""
    from edgeyolo.boards.fleet import Table, bench_fleet, load_fleet

    assert fleet.fleet is not None
    boards = load_fleet(fleet.fleet)
    path = fleet.table or fleet.fleet.with_suffix(".results.json")
    table = Table(path)
    with console.show_progress() as shown:
        progress = _Together(shown)
        bundles = {name: _bundles_for(board, models, console, progress) for name, board in boards.items()}
        results = bench_fleet(
            boards, bundles, _words_of(options), table, reconnect_s=hosts.reconnect, progress=progress
        )
    columns = ["board", "model", "precision", "network ms", "total ms", "p90 ms", "per second", "slowed down by"]
    rows = [
        (
            *(row.board, row.model, row.record.precision, row.record.spread["network"].median_ms),
            *(row.record.spread["total"].median_ms, row.record.spread["total"].p90_ms, row.record.per_second),
            ", ".join(row.record.throttled),
        )
        for row in table.rows
    ]
    console.show_table(columns, rows)
    failed = {name: result for name, result in results.items() if isinstance(result, EdgeYoloError)}
    for name, error in failed.items():
        console.warn(f"{name}: {error}")
    console.say(f"Wrote {path}: {sum(r for r in results.values() if isinstance(r, int))} rows are new")
    if options.csv is not None:
        write_csv(options.csv, [{"host": row.board, **msgspec.to_builtins(row.record)} for row in table.rows], console)
    if options.plot is not None and table.rows:
        draw(options.plot, {f"{row.board}, {Path(row.model).name}": row.record for row in table.rows}, console)
    console.show_json(
        {"table": str(path), "rows": msgspec.to_builtins(table.rows), "failed": {n: str(e) for n, e in failed.items()}}
    )
    if failed:
        console.fail(UnfinishedError(f"away or failed: {', '.join(failed)}", hint="The same command goes on with them"))


def _bundles_for(board: FleetBoard, models: Sequence[Path], console: Console, progress: Progress) -> dict[str, Path]:
    """Bundles that are for this board as they are, and others built for it, once."""
    from edgeyolo import verbs
    from edgeyolo.bundle import read_manifest

    fitting = {}
    for model in models:
        if model.suffix != ".eyb":
            fitting[str(model)] = verbs.bundle_for(model, board.target, progress=progress)
        elif (target := read_manifest(model).target) == board.target:
            fitting[str(model)] = model
        else:
            console.say(f"{model} is for {target}, and not run on {board.host} ({board.target})")
    return fitting


def _words_of(options: BenchOptions) -> list[str]:
    """Options of `bench` as they are written for the board.

    Raises:
        UsageError: one that does not go over a wire.
    """
    if options.tune or options.data is not None:
        raise UsageError(
            "--tune and --data are not for boards over ssh", hint="Log in there, and tune the bundle there"
        )
    values = {name: getattr(options, name) for name in _SENT}
    words = []
    for name, value in values.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, "--layers"] if options.layers else words


def _at_hosts(
    console: Console, hosts: HostOptions, job: Callable[[Wire, Progress], dict[str, Any]]
) -> list[dict[str, Any]]:
    """What the job gave on each host; a host where it failed is reported."""
    from edgeyolo.boards.fleet import at_once
    from edgeyolo.boards.wire import Address, at_board, may_ask

    asks = may_ask() and len(hosts.host) == 1
    with console.show_progress() as shown:
        progress = _Together(shown)

        def at(host: str) -> Callable[[], dict[str, Any]]:
            address = Address(host, hosts.ssh_config, hosts.board_python, asks)
            return lambda: at_board(
                address, lambda wire: job(wire, progress), reconnect_s=hosts.reconnect, progress=progress
            )

        results = at_once({host: at(host) for host in hosts.host})
    told = []
    for host, result in results.items():
        if isinstance(result, EdgeYoloError):
            console.fail(result)
            told.append(
                {"host": host, "error": {"kind": type(result).__name__, "what": result.what, "hint": result.hint}}
            )
        else:
            told.append(result)
    console.show_json({"boards": told})
    return [result for result in results.values() if not isinstance(result, EdgeYoloError)]
