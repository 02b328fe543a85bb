"""Tests and benchmarks on a CUDA GPU, in two stages of at most 5 minutes that need no package index and no data.

    python3 -m bench.gpu [first|second] [--dry]        or: make gpu [STAGE=second] [DRY=1]

--dry walks the same code on the CPU, with little of everything. A stage has parts, the most wanted first. Each is a
process of its own, so that one that fails, crashes or hangs costs only what it had not measured yet. Results go to
$OUT/gpu-STAGE.json where OUT is set, else to bench/results/ (of a dry run: to a temporary folder), and to the terminal,
each as soon as it is there. The exit code is 0 if all went well, 1 if anything failed, 2 if a package is missing, 3 if
there is no GPU.
"""

import argparse
import ctypes
import faulthandler
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

# Nothing but the standard library is imported above main(): a missing package is to be named, not to be tripped over.

NEEDED = {"PIL": "pillow", "nvidia.dali": "nvidia-dali-cuda120", "rich.progress": "rich"}
NEEDED |= {name: name for name in ("numpy", "torch", "torchmetrics", "tyro", "pytest")}
"""The modules that are imported on the way, and the packages that they come in."""
STAGES = {
    "first": {
        **{"machine": ("first", 30), "data": ("first", 40), "damaged": ("first", 30), "tests": ("first", 100)},
        **{"resident": ("training", 75), "fed": ("training", 40), "decode": ("first", 40), "loader": ("first", 50)},
    },
    "second": {"data": ("second", 100), "run": ("second", 140), "seed": ("second", 60), "peers": ("second", 80)},
}
"""The parts of each stage: functions of these names, their modules, and the seconds after which they are stopped."""
ROWS = "SLUICE_ROWS"
"""The environment variable that names the file to which a part adds its rows, lines of JSON."""
BEGIN, TOTAL = time.monotonic(), 290.0
"""When this process began, and the seconds after which no part of a stage goes on."""

Result = dict[str, Any]


def gpus() -> int:
    """Return how many GPUs the CUDA driver of this machine has."""
    count = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def failures(results: dict[str, list[Result]]) -> list[str]:
    """Return a line for each error, each test that failed and each that did not run."""
    found = []
    for part, rows in results.items():
        for row in rows:
            if "error" in row or row.get("outcome", "passed") != "passed":
                why = str(row.get("error", row.get("outcome"))).splitlines()[-1]
                label = _text({name: value for name, value in row.items() if name not in ("error", "outcome")})
                found.append(f"{part}, {label or 'all of it'}: {why}")
    return found


def _text(value: Any) -> str:
    """Return a value as text, its numbers with three digits or more."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return str(value)


def rows_of(command: Sequence[str], path: Path, limit: float) -> Iterator[Result]:
    """Run a part for at most `limit` seconds; yield the rows that it adds to `path`, and an error if it ended badly.

    The part finds `path` in its environment. All processes that inherited that from it are ended too.
    """
    if limit <= 0:
        yield {"error": "not begun: the time of the stage was over"}
        return
    path.touch()
    begin, environment = time.monotonic(), os.environ | {ROWS: str(path)}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        with path.open() as file:
            ended, line = False, ""
            while not ended:
                ended = process.poll() is not None or time.monotonic() - begin > limit
                *lines, line = (line + file.read()).split("\n")
                yield from map(json.loads, lines)
                time.sleep(0.05)
        if process.returncode is None:
            yield {"error": f"stopped after {limit:.0f} seconds"}
        elif process.returncode:
            yield {"error": f"its process ended with exit code {process.returncode}"}
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):  # at the first, a part says where it hangs
            for pid in _processes_with(f"{ROWS}={path}"):
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
            with suppress(subprocess.TimeoutExpired):
                process.wait(3)


def _processes_with(variable: str) -> list[int]:
    """Return the processes that have this in their environment, whatever session they are in (on Linux)."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if variable.encode() in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return found


def run(stage: str, dry: bool) -> int:
    """Run the parts of a stage, write and print each row at once, and return the exit code."""
    path = Path(__file__).parent.parent / "results" / f"gpu-{stage}-{time.strftime('%Y-%m-%d')}.json"
    if dry or "OUT" in os.environ:
        path = Path(os.environ.get("OUT") or tempfile.mkdtemp(prefix="sluice-gpu-")) / f"gpu-{stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results, seconds = dict[str, list[Result]](), dict[str, float]()
    with tempfile.TemporaryDirectory(prefix="sluice-gpu-data-") as work:
        for name, (_, limit) in STAGES[stage].items():
            begin, results[name] = time.monotonic(), []
            command = [sys.executable, "-m", "bench.gpu", stage, "--part", name, work, *["--dry"] * dry]
            for row in rows_of(command, Path(work, f"{name}.jsonl"), min(limit, BEGIN + TOTAL - begin)):
                results[name].append(row)
                seconds[name] = round(time.monotonic() - begin, 1)
                path.write_text(json.dumps({**results, "seconds": seconds}, indent=1) + "\n")
                print(f"{time.monotonic() - BEGIN:.1f} s: {name}: {_text(row)}", flush=True)
    failed = failures(results)
    print(*(f"failed: {failure}" for failure in failed), sep="\n")
    print(f"{'dry run: ' if dry else ''}{len(failed)} failures; results: {path}")
    return 1 if failed else 0


def run_part(stage: str, name: str, work: Path, dry: bool) -> None:
    """Add the rows of one part to its file, each as soon as it is there, or its error."""
    faulthandler.register(signal.SIGTERM, chain=True)
    logging.basicConfig(format="%(message)s")
    for logger in ("pipeline", "model"):
        logging.getLogger(logger).setLevel(logging.INFO)
    with Path(os.environ[ROWS]).open("a", buffering=1) as file:
        try:
            scale = import_module("bench.gpu.scale")
            measure = getattr(import_module(f"bench.gpu.{STAGES[stage][name][0]}"), name)
            for row in measure(scale.DRY if dry else scale.FULL, work):
                file.write(json.dumps(row) + "\n")
        except Exception as error:
            traceback.print_exc()
            file.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Tests and benchmarks on a CUDA GPU.")
    parser.add_argument("stage", nargs="?", choices=STAGES, default="first", help="what to run (default: first)")
    parser.add_argument("--dry", action="store_true", help="walk the same code on the CPU, in a minute")
    parser.add_argument("--part", nargs=2, metavar=("NAME", "WORK"), help=argparse.SUPPRESS)  # how run() calls itself
    args = parser.parse_args()
    if args.part:
        run_part(args.stage, args.part[0], Path(args.part[1]), args.dry)
        os._exit(0)  # all is measured; workers may take long to end, or hang
    if args.dry:  # the machine is shared, and with one thread a process sums are made in one order
        os.environ["OMP_NUM_THREADS"] = "1"
    if not args.dry and not gpus():
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the part under way ends too
    return run(args.stage, args.dry)


if __name__ == "__main__":
    sys.exit(main())
