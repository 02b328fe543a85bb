"""left-out.tsv: what did not become part of a data set, and why."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from shards.errors import InputError, printable
from shards.format.images import LeftOut
from shards.format.storage import Folder

NAME = "left-out.tsv"


def write_left_out(folder: Folder, left_out: Sequence[LeftOut]) -> None:
    """Write the list. What is not printable in a name is an escape in it, for people look at it in terminals."""
    report, lines = io.StringIO(), [LeftOut._fields, *sorted(left_out)]
    csv.writer(report, "excel-tab", lineterminator="\n").writerows(map(printable, line) for line in lines)
    folder.write(NAME, report.getvalue().encode())


def read_left_out(folder: Path) -> Iterator[LeftOut]:
    """Yield what is in the list; nothing if there is none. Raises InputError if it is another list."""
    path = folder / NAME
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = csv.reader(file, "excel-tab")
        try:
            if (columns := next(lines, [])) != [*LeftOut._fields]:
                raise ValueError(f"its columns are {', '.join(columns)}")
            yield from (LeftOut(*map(printable, line)) for line in lines)
        except (csv.Error, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: not the list of what was left out ({error}). Copy it again, or remove it."
            ) from None
