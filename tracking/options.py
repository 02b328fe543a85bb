"""The options of a run by their names on the command line."""

from collections.abc import Mapping
from typing import Any


def options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a nested configuration, such as --batch-size, but for where the run lies."""
    found = dict[str, Any]()
    for name, value in config.items():
        found |= options(value) if isinstance(value, dict) else {f"--{name.replace('_', '-')}": value}
    return {name: value for name, value in found.items() if name not in ("--out", "--resume")}
