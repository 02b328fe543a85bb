"""What `make gpu` prints of its results, and which of them are failures."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def failures(results: dict[str, Any]) -> list[str]:
    """What did not go well, a line each: errors, tests that failed, and tests that did not run."""
    found = []
    for name, section in results.items():
        for row in section if isinstance(section, list) else [section]:
            if "error" in row or row.get("outcome", "passed") != "passed":
                why = str(row.get("error", row.get("outcome"))).splitlines()[-1]
                found.append(f"{name}, {_label(row) or 'all of it'}: {why}")
    return found


def _label(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {row[name]}" for name in ("test", "epoch", *NAMES) if name in row)


def tables(results: dict[str, Any]) -> None:
    console = Console(width=160, highlight=False)
    outcomes = Table("test", "outcome", "seconds", "measured")
    for row in results["tests"]:
        measured = "; ".join(f"{name} {_short(value)}" for name, value in row.get("measured", {}).items())
        outcomes.add_row(escape(row["test"]), row.get("outcome", "failed"), _short(row.get("seconds", "")), measured)
    rates = Table("what", *NAMES, *NUMBERS)
    for section in ("loader", "cached", "training_step", "training", "whole"):
        for row in results[section]:
            told = (str(row.get(name, "")) for name in NAMES)
            numbers = ((row.get(name), form) for name, form in NUMBERS.items())
            shown = (form.format(number) if number is not None else "" for number, form in numbers)
            what = row.get("epoch", section.replace("_", " "))
            rates.add_row(what, *told, *shown, style="red" if "error" in row else None)
    console.print({name: results[name] for name in ("machine", "data", "seconds")})
    console.print(outcomes, rates)
    for row in results["whole"]:
        console.print(row.get("said", ""))


NAMES = ("stored", "decode", "hw_decoder_load", "cache", "batch_size", "num_threads")
NUMBERS = {
    "samples_per_second": "{:,.0f}",
    "p99_seconds": "{:.4f}",
    "first_batch_seconds": "{:.2f}",
    "waiting_share": "{:.1%}",
}


def _short(value: Any) -> str:
    """Numbers with three digits, whatever they lie in."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(one)}" for name, one in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
