"""What the user can mend, and how a command says it: one sentence, exit code 2, no traceback, no password."""

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

MASK = "***"
"""what stands for a password or token"""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""numbers of errors that say that there is no more room"""
_PASSWORD = re.compile(
    r"(\w:/+[^\s/:@\[]*:(?!\d*(?:[/?#]|$))"  # s3://key: but not http://host:80/
    r"|https?:/+(?=[^\s/:@\[]+@))"  # alone before the @ it may be a token
    r"(?:[^\s/]+|[\w/+=]+)@"  # the secret keys of S3 have slashes
)
_URL, _VALUE = re.compile(r"\w:/+\S+"), re.compile(r"([?&][^?&=]+=)[^&'\"<>]*[\w%/+=~-]")


def masked(text: str) -> str:
    """Return `text` with *** for the passwords in its URLs, and for all values of their queries, which may be tokens.

    A URL that was taken for a path has one slash.
    """
    return _URL.sub(lambda url: _VALUE.sub(rf"\1{MASK}", url[0]), _PASSWORD.sub(rf"\1{MASK}@", text))


class InputError(Exception):
    """Something given to Sluice is not as it must be. The message says what, where, and what to do, masked.

    No ValueError: the command line's library would put those into a box of its own.
    """

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


class _Masking:
    """A stream that masks what is written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return cast(int, self._stream.write(masked(text)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def report_errors() -> Iterator[None]:
    """Turns the errors a user can mend into one line on stderr and exit code 2; Ctrl-C into exit code 130.

    From here on all that is printed is masked: libraries, too, quote what they were given.
    """
    sys.stdout, sys.stderr = cast(Any, _Masking(sys.stdout)), cast(Any, _Masking(sys.stderr))
    try:
        yield
    except (InputError, OSError) as error:
        said = str(error)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            limit = f"the disk is full, or a limit on it is reached ({error.strerror})"
            said = f"{error.filename or 'a file'}: {limit}. Free some of it and run again."
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
