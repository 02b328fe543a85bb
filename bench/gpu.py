"""Tests and benchmarks on a CUDA GPU, in one command that needs no package index and no data.

    python3 -m bench.gpu [--dry]          or: make gpu [DRY=1]

--dry walks the same code on the CPU, with little of everything. Results go to $OUT/gpu.json where OUT is set, else to
bench/results/ (of a dry run: to a temporary folder), and to the terminal, after each section. The exit code is 0 if all
went well, 1 if anything failed, 2 if a package is missing, 3 if there is no GPU.
"""

import argparse
import ctypes
import faulthandler
import json
import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

# Nothing but the standard library is imported above main(): a missing package is to be named, not to be tripped over.

NEEDED = {"PIL": "pillow", "nvidia.dali": "nvidia-dali-cuda120", "rich.progress": "rich"}
NEEDED |= {name: name for name in ("numpy", "torch", "torchmetrics", "tyro", "pytest")}
"""The modules that are imported on the way, and the packages that they come in."""
LIMIT = 500
"""Seconds after which something hangs: the place is printed, and the results so far stay."""


def gpus() -> int:
    """Return how many GPUs the CUDA driver of this machine has."""
    count = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def failures(results: dict[str, Any]) -> list[str]:
    """Return a line for each error, each test that failed and each that did not run."""
    found = []
    for section, rows in results.items():
        for row in rows if isinstance(rows, list) else [rows]:
            if "error" in row or row.get("outcome", "passed") != "passed":
                why = str(row.get("error", row.get("outcome"))).splitlines()[-1]
                label = _text({name: value for name, value in row.items() if name not in ("error", "outcome")})
                found.append(f"{section}, {label or 'all of it'}: {why}")
    return found


def _text(value: Any) -> str:
    """Return a value as text, its numbers with three digits."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def run(dry: bool) -> int:
    """Run all sections, write and print the results of each at once, and return the exit code."""
    from bench.sections import DRY, FULL, sections

    faulthandler.dump_traceback_later(LIMIT, exit=True)
    path, results = Path(__file__).parent / "results" / f"gpu-{time.strftime('%Y-%m-%d')}.json", dict[str, Any]()
    if dry or "OUT" in os.environ:
        path = Path(os.environ.get("OUT") or tempfile.mkdtemp(prefix="sluice-gpu-")) / "gpu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sluice-gpu-data-") as work:
        for name, section in sections(DRY if dry else FULL, Path(work)):
            begin = time.perf_counter()
            print(f"== {name}", flush=True)
            results[name] = section()
            results.setdefault("seconds", {})[name] = round(time.perf_counter() - begin, 1)
            path.write_text(json.dumps(results, indent=1) + "\n")
            print(*map(_text, results[name]), sep="\n", flush=True)
    faulthandler.cancel_dump_traceback_later()
    failed = failures(results)
    print(*(f"failed: {failure}" for failure in failed), sep="\n")
    print(f"{'dry run: ' if dry else ''}{len(failed)} failures; results: {path}")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Tests and benchmarks on a CUDA GPU.")
    parser.add_argument("--dry", action="store_true", help="walk the same code on the CPU, in a minute")
    dry = parser.parse_args().dry
    if dry:  # the machine is shared, and with one thread a process sums are made in one order
        os.environ["OMP_NUM_THREADS"] = "1"
    if not dry and not gpus():
        print("No CUDA GPU here: nothing was run. `make gpu DRY=1` walks the same code on the CPU.", file=sys.stderr)
        return 3
    lacking = []
    for module, package in NEEDED.items():
        try:
            import_module(module)
        except (ImportError, OSError) as error:
            lacking.append(f"{package} ({error})")
    if lacking:
        print(f"Cannot run without {', '.join(lacking)}: put them on PYTHONPATH.", file=sys.stderr)
        return 2
    return run(dry)


if __name__ == "__main__":
    sys.exit(main())
