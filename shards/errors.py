"""What the user can mend, and how a command says it: one sentence, exit code 2, no traceback."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MASK = "***"
"""what stands for a password or token"""
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
    """Something given to Sluice is not as it must be. The message says what, where, and what to do.

    No ValueError: the command line's library would put those into a box of its own.
    """


@contextmanager
def report_errors() -> Iterator[None]:
    """Turns the errors a user can mend into one line on stderr and exit code 2; Ctrl-C into exit code 130."""
    try:
        yield
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
