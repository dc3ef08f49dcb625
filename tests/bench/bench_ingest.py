"""Instances received per second, durable before Success, beside DCMTK's storescp and Orthanc: `make bench-ingest`.

Every receiver gets the same objects from the same senders (DCMTK's storescu, one or four associations), with an empty
store of its own on the same file system, in turns; figures are medians of three. What was stored is compared with
what was sent by the SHA-256 of each Data Set. storescp flushes nothing before it answers, Orthanc its files but not
its index; the node flushes file, folder and database first. Orthanc runs tuned: no MD5, overwriting allowed. All run
without Nagle's algorithm; the rows "storescu as shipped" show what a modality sees that has it on.

What was stored stays until a workload is done: an ext4 without journal searches around inodes deleted within the last
minute for each new file, and would slow down whoever comes next. How dear fresh memory is decides what the page cache
costs DCMTK and Orthanc on a virtual machine, so their figures wander between runs more than the node's.

Options: --quick runs each once on fewer objects; --only CT (or CXR, small, memory) runs one part; --folder puts the
stores elsewhere.
"""

import argparse
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.ingest_peers import (
    AS_SHIPPED,
    CT,
    CXR,
    LARGE,
    NO_DELAY,
    ORTHANC,
    OURS,
    OURS_LIBRARY,
    SMALL,
    STORESCP,
    STORESCP_FORK,
    Measured,
    Receiver,
    Workload,
    disk_limit,
    measure,
)

Bar = tuple[str, float, float]
REPEATS = 3
RECEIVERS = (STORESCP, STORESCP_FORK, ORTHANC, OURS, OURS_LIBRARY)
COUNTS = {CT.name: 600, CXR.name: 60, SMALL.name: 2000}
BARRED = (CT.name, CXR.name)
MB = 1e6
_AVOIDED_S = 65.0


def main() -> int:
    """Run the comparisons and print the bars; 1 when one is short."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["CT", "CXR", "small", "memory"])
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-ingest-", dir=options.folder))
    try:
        bars = list(_all(folder, options.only, quick=options.quick))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value, target in bars:
        is_limit = name.endswith(("_over_ours", "_rss"))
        is_ok = value <= target if is_limit else value >= target
        _say(f"bar {name} {value:.2f} {target:g} {'ok' if is_ok else 'short'}")
    return int(any((value > target) == name.endswith(("_over_ours", "_rss")) for name, value, target in bars))


def _all(folder: Path, only: str | None, *, quick: bool) -> list[Bar]:
    bars: list[Bar] = []
    for workload in (CT, CXR, SMALL):
        if only in {None, workload.name.split()[0]}:
            bars += _compared(folder / workload.name.split()[0], workload, quick=quick)
            _clean(folder / workload.name.split()[0])
    if only in {None, "memory"}:
        bars += _memory(folder / "memory", quick=quick)
    return bars


def _compared(folder: Path, workload: Workload, *, quick: bool) -> list[Bar]:
    """Print one workload's table; return its bars."""
    count = COUNTS[workload.name] // (4 if quick else 1)
    rates: dict[str, float] = {}
    for associations in (1, 4):
        sent = workload.write(folder / f"sent-{associations}", count=count, associations=associations)
        runs: list[tuple[str, Receiver, dict[str, str]]] = [(r.name, r, NO_DELAY) for r in RECEIVERS]
        runs.append((f"{OURS.name}, storescu as shipped", OURS, AS_SHIPPED))
        limits, measured = _in_turns(folder, runs, sent, repeats=1 if quick else REPEATS, size=2 * workload.side**2)
        _say(f"\n{workload.name}, {associations} associations, {count} objects")
        _say(f"{'':34}instances/s    MB/s   CPU s/1000   peak RSS MB   shared once MB")
        for name, ones in measured.items():
            _say(f"{name:34}{_row(ones)}")
        limit = statistics.median(limits)
        _say(f"{'the disk: fsync, rename, fsync':34}{limit:11.0f} {limit * 2 * workload.side**2 / MB:7.0f}")
        rates = {name: statistics.median(one.rate for one in ones) for name, ones in measured.items()}
        rates["disk"] = limit
    if workload.name not in BARRED:
        return []
    name, ours = workload.name.split()[0].lower(), rates[OURS.name]
    return [
        (f"{name}_ours_against_orthanc", ours / rates[ORTHANC.name], 2.0),
        (f"{name}_ours_against_storescp", ours / rates[STORESCP.name], 1.0),
        (f"{name}_disk_over_ours", rates["disk"] / ours, 1.5),
    ]


def _in_turns(
    folder: Path,
    runs: Sequence[tuple[str, Receiver, dict[str, str]]],
    sent: tuple[list[Path], dict[str, str]],
    *,
    repeats: int,
    size: int,
) -> tuple[list[float], dict[str, list[Measured]]]:
    """Run everybody once, then everybody again: what drifts on the machine drifts for all."""
    limits: list[float] = []
    measured: dict[str, list[Measured]] = {name: [] for name, _, _ in runs}
    folders, digests = sent
    here = folder / f"stored-{len(folders)}"
    for turn in range(repeats):
        limits.append(disk_limit(here / f"disk-{turn}", size=size, count=len(digests)))
        for number, (name, receiver, sender) in enumerate(runs):
            measured[name].append(measure(receiver, folders, digests, here / f"{turn}-{number}", sender=sender))
    return limits, measured


def _clean(folder: Path) -> None:
    """Delete what was stored, and wait until nobody avoids its inodes any more."""
    shutil.rmtree(folder)
    os.sync()
    time.sleep(_AVOIDED_S)


def _row(ones: Sequence[Measured]) -> str:
    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    rate = median([one.rate for one in ones])
    volume = median([one.size_bytes / one.seconds for one in ones]) / MB
    cpu = median([one.cpu_s / one.count * 1000 for one in ones])
    rss = median([one.peak_rss for one in ones]) / MB
    own = median([one.own_memory for one in ones]) / MB
    return f"{rate:11.0f} {volume:7.0f} {cpu:12.2f} {rss:13.0f} {own:16.0f}"


def _memory(folder: Path, *, quick: bool) -> list[Bar]:
    """Print what the node needs for objects of three sizes; return the bar: memory does not grow with size."""
    peaks = []
    for workload, count in ((CT, 200), (CXR, 40), (LARGE, 8)):
        here = folder / workload.name
        folders, digests = workload.write(here / "sent", count=count // (2 if quick else 1), associations=4)
        one = measure(OURS, folders, digests, here / "store")
        _say(f"peak RSS of the node with objects of {workload.name}: {one.peak_rss / MB:.0f} MB")
        peaks.append(one.peak_rss)
    return [("large_over_small_rss", peaks[-1] / peaks[0], 1.2)]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
