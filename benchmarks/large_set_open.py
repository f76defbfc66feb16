"""Opens one set in a process of its own, for large_set.py: its times and memory as JSON.

python benchmarks/large_set_open.py runs/large/coco-1000/train.json
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.data.records import Records

LOADERS = 2
BATCH = 64
MOST_ASKED = 100_000


def main() -> None:
    """Open, order, load, print."""
    before = peak_mib()
    started = time.perf_counter(), time.process_time()
    data = open_dataset(sys.argv[1], "train")
    row: dict[str, Any] = {
        "pictures": len(data),
        "boxes": data.report.boxes,
        "open_s": time.perf_counter() - started[0],
        "open_processor_s": time.process_time() - started[1],
        "before_mib": before,
        "peak_mib": peak_mib(),
    }
    from edgeyolo.training.order import EpochOrder  # with torch, which opening does not need

    started = time.perf_counter(), time.process_time()
    row["steps"] = sum(1 for _ in EpochOrder(len(data), BATCH))
    row["order_s"], row["order_processor_s"] = time.perf_counter() - started[0], time.process_time() - started[1]
    for way in ("fork", "spawn"):
        if way == "spawn":
            data.records.share()
        row[way] = measure_loaders(way, data)
    sys.stdout.write(json.dumps(row))


def measure_loaders(way: str, data: Dataset) -> dict[str, float]:
    """Seconds of two processes that are given the records; USS and PSS of one that asked for many of them."""
    start_process = multiprocessing.get_context(way)
    found = []
    for records in (Records.of(()), data.records):
        pipes, processes = [], []
        for part in range(LOADERS):
            mine, theirs = start_process.Pipe()
            process = start_process.Process(target=load, args=(records, part, theirs))
            process.start()
            pipes.append(mine)
            processes.append(process)
        start = time.perf_counter()
        found.append(sum_up([pipe.recv() for pipe in pipes]))
        seconds = time.perf_counter() - start
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join()
    empty, full = found
    return {"asked_s": seconds, "uss_mib": full[0], "pss_mib": full[1], "uss_without_mib": empty[0]}


def load(records: Records, part: int, pipe: Connection) -> None:
    """Ask for records from the first to the last; say what memory that took, and wait for the other process."""
    step = LOADERS * -(-len(records) // MOST_ASKED) or 1
    sum(float(records[row].boxes_xyxy.sum()) for row in range(part, len(records), step))
    pipe.send(own_memory_mib())
    pipe.recv()


def sum_up(memory: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of the larger process."""
    return max(uss for uss, _ in memory), max(pss for _, pss in memory)


def own_memory_mib() -> tuple[float, float]:
    """USS and PSS of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    kib = {name: int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty", "Pss")}
    return (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024, kib["Pss"] / 1024


def peak_mib() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
