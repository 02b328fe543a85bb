"""What the user can mend, and how a command says it: one sentence, exit code 2, no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
