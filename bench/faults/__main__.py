"""Attack this project in all the ways that are known: `python -m bench.faults [ATTACK...]`, or `make faults`.

Every attempt must end well, or be refused by name. A run of all attacks writes bench/results/faults.json, and its table
into docs/reliability.md. The exit code is 1 if any attempt failed.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich import progress
from rich.console import Console
from rich.text import Text

from bench.faults import disks, epochs, files, fuzz, images, kills, ranks
from bench.faults.attack import KINDS, REFUSED, ROOT, WELL, Attack, Failure, Row, kill_started, prepare, run
from bench.measure import machine, write_section
from shards.errors import InputError, report_errors
from shards.format.storage import write_bytes
from shards.machine import cpu_count

ATTACKS = [attack for kind in (fuzz, files, images, kills, disks, ranks, epochs) for attack in kind.ATTACKS]
RESULTS, PAGE = ROOT / "bench" / "results" / "faults.json", ROOT / "docs" / "reliability.md"
PACKAGES = ("torch", "nvidia-dali-cuda120", "pillow", "numpy", "atheris")
SHOWN = 3
"""failures of an attack on the page; all are in the JSON file"""


@dataclass(frozen=True, kw_only=True)
class FaultsConfig:
    """Which attacks, and how much of them."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[ATTACK...]")] = ()
    """attacks, or what their names begin with; all if none are given"""
    long: bool = False
    """the long run, of hours: kills 50 times each program, and feeds a million inputs to each parser"""
    share: float = 1.0
    """of the attempts, to do fewer or more"""
    jobs: int = cpu_count()
    """attacks at a time"""
    attempt: int | None = None
    """do the attempt of this number alone, in this process, which shows where it fails"""
    work: Path | None = None
    """folder to work in, which is kept, with faults.json where only some attacks run; else a temporary one"""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1000 or self.jobs < 1:
            raise InputError("--share must be above 0, and --jobs at least 1.")

    @property
    def attacks(self) -> dict[Attack, int]:
        """The attacks that are wanted, and how many attempts each has. Raises InputError if a name is none."""
        for name in self.names:
            if not any(attack.name.startswith(name) for attack in ATTACKS):
                raise InputError(f"{name}: no such attack. There are {', '.join(one.name for one in ATTACKS)}.")
        wanted = [one for one in ATTACKS if not self.names or one.name.startswith(self.names)]
        return {one: max(1, round((one.long if self.long else one.attempts) * self.share)) for one in wanted}


def attacked(attacks: dict[Attack, int], work: Path, jobs: int) -> list[Row]:
    """Run attacks, several at a time. What fails is a row, too."""
    columns = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn()
    times = _Rate(), progress.TimeElapsedColumn(), progress.TimeRemainingColumn()
    rows = dict[str, Row]()
    with progress.Progress(*columns, *times) as bar, ThreadPoolExecutor(jobs) as pool:
        everything = bar.add_task("attacks", total=len(attacks))

        def one(attack: Attack, attempts: int) -> Row:
            task = bar.add_task(attack.name, total=attempts)

            def advance(row: Row) -> None:
                failed = f", [red]{len(row.failures)} failed[/]" if row.failures else ""
                bar.update(task, advance=1, description=f"{attack.name}{failed}")

            try:
                return run(attack, work, attempts, advance)
            finally:
                bar.remove_task(task)
                bar.advance(everything)

        running = {pool.submit(one, attack, attempts): attack for attack, attempts in attacks.items()}
        try:
            for future in as_completed(running):
                attack = running[future]
                try:
                    row = future.result()
                except Exception as error:  # of the campaign itself
                    told = f"{type(error).__name__}: {error}"
                    row = Row(attack.name, attack.what, failures=[Failure(0, "traceback", "the campaign", told)])
                rows[row.name] = row
                bar.print(said(row), markup=False, soft_wrap=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            kill_started(os.getpid())
            raise
    return [rows[attack.name] for attack in attacks]


class _Rate(progress.ProgressColumn):
    def render(self, task: progress.Task) -> Text:
        return Text(f"{task.speed or 0:,.1f}/s")


def said(row: Row) -> str:
    """Say in a line what became of an attack, and in more what failed."""
    counts = f"{row.attempts:,} attempts: {row.ended[WELL]:,} ended well, {row.ended[REFUSED]:,} refused"
    failed = ", ".join(f"{count} {kind}" for kind in KINDS if (count := row.failed(kind)))
    lines = [f"{row.name}: {counts}, {failed or 'none failed'}; {row.seconds:,.0f} s"]
    lines += [f"    {one.attempt}: {one.kind}, {one.doing}: {last(one)}" for one in row.failures[:SHOWN]]
    return "\n".join(lines)


def last(failure: Failure) -> str:
    return failure.told.strip().rpartition("\n")[2][:300]


def table(rows: Sequence[Row]) -> str:
    """Return the rows in Markdown, and below them what failed."""
    heads = ["attack", "what is done", "attempts", "ended well", "refused by name", *KINDS, "s"]
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for row in rows:
        counts = row.attempts, row.ended[WELL], row.ended[REFUSED], *map(row.failed, KINDS), round(row.seconds)
        lines.append([row.name, row.what, *(f"{count:,}" for count in counts)])
    total = sum(row.attempts for row in rows), sum(len(row.failures) for row in rows)
    failures = [
        f"- {row.name}, attempt {one.attempt} ({one.kind}): `{one.doing.replace('`', chr(39))[:120]}`: "
        f"`{last(one).replace('`', chr(39))[:160]}`"
        for row in rows
        for one in row.failures[:SHOWN]
    ]
    ended = f"{total[0]:,} attempts, of which {total[1]:,} failed."
    return "\n".join(
        ["\n".join(f"| {' | '.join(cells)} |" for cells in lines), "", ended, *[""] * bool(failures), *failures]
    )


def main(config: FaultsConfig) -> int:
    os.environ |= {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    os.environ["PYTHONUNBUFFERED"] = "1"
    attacks, before = config.attacks, machine(*PACKAGES)
    with tempfile.TemporaryDirectory(prefix="sluice-faults-", ignore_cleanup_errors=True) as temporary:
        work = (config.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        os.environ["HOME"] = str(work)  # where the loader and others remember things
        if config.attempt is not None:
            for attack in attacks:
                prepare(attack, work / attack.name)
                attack.attempt(work / attack.name, config.attempt)
            return 0
        rows = attacked(attacks, work, config.jobs)
        kept = [vars(row) | {"failures": [one._asdict() for one in row.failures]} for row in rows]
        text = json.dumps({"machine": before, "attacks": kept}, indent=1) + "\n"
        write_bytes(work / "faults.json" if config.names else RESULTS, text.encode())
    Console().print(table(rows), markup=False, soft_wrap=True)
    if not config.names:
        share = f", {config.share:g} of its attempts" if config.share != 1 else ""
        how = f"`make faults{' LONG=1' if config.long else ''}`{share}, {before}."
        write_section(PAGE, "faults", f"{how}\n\n{table(rows)}")
    return int(any(row.failures for row in rows))


if __name__ == "__main__":
    with report_errors():
        sys.exit(main(tyro.cli(FaultsConfig, description=__doc__)))
