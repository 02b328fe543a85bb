"""Nothing is half written: files appear under their name only when they are whole and on the disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["PARTIAL", "replacing", "write_bytes"]

PARTIAL = ".partial-"
"""what a temporary name begins with; a file of that name is what a killed run left"""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it is flushed and takes the name `path`, else it goes.

    The temporary name keeps the extension, because Pillow chooses the format by it.
    """
    temporary = path.with_name(f"{PARTIAL}{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
