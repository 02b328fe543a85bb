"""What commands say, so that it can be printed; and what the user can mend: one sentence, exit code 2, no traceback."""

import errno
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, TextIO, cast

MASK = "***"
"""what stands for a password or token"""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""numbers of errors that say that there is no more room"""
_PASSWORD = re.compile(
    r"(\w:/+[^\s/:@\[]*:(?!\d*(?:[/?#]|$))"  # s3://key: but not http://host:80/
    r"|https?:/+(?=[^\s/:@\[]+@))"  # alone before the @ it may be a token
    r"(?:[^\s/]+|[\w/+=]+)@"  # the secret keys of S3 have slashes
)
_NO_MEMORY = re.compile("out of memory|allocate memory")
"""What PyTorch says; Python and NumPy raise MemoryError."""
_URL, _VALUE = re.compile(r"\w:/+\S+"), re.compile(r"([?&][^?&=]+=)[^&'\"<>]*[\w%/+=~-]")


def masked(text: str) -> str:
    """Return `text` with *** for the passwords in its URLs, and for all values of their queries, which may be tokens.

    A URL that was taken for a path has one slash.
    """
    return _URL.sub(lambda url: _VALUE.sub(rf"\1{MASK}", url[0]), _PASSWORD.sub(rf"\1{MASK}@", text))


def printable(text: str) -> str:
    """Return `text` with escapes, as Python has them, for what is not to be seen: what a terminal would obey, say.

    Names of files, of samples and of anything in a file may have such characters in them.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print lines, whoever may have written what they quote."""
    for line in lines:
        print(printable(line), file=file)


class InputError(Exception):
    """Something given to Sluice is not as it must be. The lines, mostly one, say what, where and what to do.

    They are masked and printable. No ValueError: the command line's library would put those into a box of its own.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*(printable(masked(line)) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class _Masking:
    """A stream that masks what is written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return cast(int, self._stream.write(masked(text)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def report_errors() -> Iterator[None]:
    """Turns the errors a user can mend into one line on stderr and exit code 2; Ctrl-C into exit code 130.

    From here on all that is printed is masked, for libraries, too, quote what they were given; and what is logged is
    printable.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where its encoding lacks a character
    sys.stdout, sys.stderr = cast(Any, _Masking(sys.stdout)), cast(Any, _Masking(sys.stderr))
    (handler := logging.StreamHandler()).setFormatter(_Formatter())
    logging.basicConfig(handlers=[handler])
    try:
        yield
    except (InputError, OSError) as error:
        first, *more = error.args if isinstance(error, InputError) else [str(error)]
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            limit = f"the disk is full, or a limit on it is reached ({error.strerror})"
            first = f"{error.filename or 'a file'}: {limit}. Free some of it and run again."
        say(f"error: {first}", *more, file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or _NO_MEMORY.search(str(error))):
            raise
        what = " ".join(str(error).split())[:200]
        say(
            f"error: not enough memory ({what}). Use fewer or smaller images at once, or a smaller network.",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        say("stopped; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
