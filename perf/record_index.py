"""CPU time and peak memory that a rank spends on the training data before its first step.

    python -m perf.record_index [--records 100000 --repeats 2]

The modes take turns, each in a process of its own: `list` parses the whole file, checks it and holds all records, as
LLaVA does and this project did before the index; `first` makes the index; `again` is every later start, and every other
rank. `workers` is the memory that two forked processes (as a DataLoader's workers are) gain by reading every record
once.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from perf.data_check import Words, make_record
from visatb.cli import ArgumentParser, run
from visatb.layout import lay_out

MODES = ("list", "first", "again")
_MIB = 2**20


def main() -> int:
    """Measure; with --mode, as one of the processes."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000, help="records to generate")
    parser.add_argument("--repeats", type=int, default=2, help="processes per mode")
    parser.add_argument("--mode", choices=MODES, help="run as the process of this mode")
    parser.add_argument("--file", type=Path, help="annotation file of that process")
    args = parser.parse_args()
    if args.mode:
        print(json.dumps(_start(args.mode, args.file)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "train.json"
        draw = random.Random(0)
        words = Words(draw)
        file.write_text(json.dumps([make_record(n, draw, words) for n in range(args.records)]))
        os.sync()  # pages that still have to be written to the disk would count as the reader's
        found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
        for _ in range(args.repeats):
            for mode in MODES:
                if mode == "first":
                    file.with_name("train.json.index.npz").unlink(missing_ok=True)
                command = [sys.executable, "-m", "perf.record_index", "--mode", mode, "--file", str(file)]
                found[mode].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        size = file.stat().st_size
    print(f"{args.records:,} records, {size / _MIB:.0f} MiB; medians of {args.repeats}\n")
    rows = [["", "seconds", "CPU seconds", "MiB of the rank", "MiB of 2 workers"]]
    for mode, runs in found.items():
        middle = {key: statistics.median(entry[key] for entry in runs) for key in runs[0]}
        cells = (
            f"{middle['seconds']:.2f}",
            f"{middle['cpu']:.2f}",
            f"{middle['memory']:.0f}",
            f"{middle['workers']:.0f}",
        )
        rows.append([mode, *cells])
    print(lay_out(rows))
    return 0


def _start(mode: str, file: Path) -> dict[str, float]:
    """Load the data in the given mode, then let two workers read it all."""
    from visatb.record_index import columns_of, open_index
    from visatb.records import check_records, read_records

    before, started, used = _private(), time.perf_counter(), time.process_time()
    if mode == "list":
        records = read_records(file)
        check_records(records, file)
    else:
        records = open_index(file)
    columns_of(records)
    spent = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - used}
    memory = _private() - before
    return spent | {"memory": memory / _MIB, "workers": sum(_worker(records) for _ in range(2)) / _MIB}


def _worker(records) -> int:
    """Private memory that a forked process gains by reading every record."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        before, characters = _private(), 0
        for n in range(len(records)):
            characters += len(records[n]["conversations"][0]["value"])
        os.write(sender, str(_private() - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return int(os.read(receiver, 64))


def _private() -> int:
    """Bytes that this process has written and does not share; pages of a mapped file are not included."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


if __name__ == "__main__":
    run(main)
