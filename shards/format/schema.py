"""What a sample is: its components, how they are named in a tar, and how keys and shards are named."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Component:
    """One image of a sample, stored in the tar as `KEY.{name}.{extension}`.

    shared: the same image belongs to many samples; the index keeps each distinct one once.
    folder: the folder that holds it in the layout of 2020, in which data sets are exported.
    """

    name: str
    channels: int
    folder: str
    shared: bool = False


COMPONENTS = (
    Component(name="fg_bg", channels=3, folder="OverlayedImages"),
    Component(name="mask", channels=1, folder="OverlayedMasks"),
    Component(name="depth", channels=1, folder="DepthImage"),
    Component(name="bg", channels=3, folder="Background", shared=True),
)
BY_NAME = {component.name: component for component in COMPONENTS}

LONGEST_KEY = 90
"""Bytes in UTF-8: with `.fg_bg.jpg` that makes the 100 that USTAR has for a name."""
SHARED_TAR = "shared.tar"
WORK = ".work"
"""Folder inside an output folder for what is needed until it is complete."""

_NUMBERED = re.compile(r"combined_s(?P<bg>[^_]+)_p(?P<fg>[^_]+)_it(?P<round>[^_]+)")


class Sample(NamedTuple):
    """A sample ready to be written. `images` and `histograms` (int64 (channels, 256)) go by component.

    places: where each image lies, as a TarMember, of a sample in a tar that is there already.
    """

    key: str
    images: dict[str, bytes]
    histograms: dict[str, NDArray[np.int64]]
    places: dict[str, tuple[str, int, int]] = {}  # noqa: RUF012 - nobody adds to it


class Identity(NamedTuple):
    """Which background, which figure and which round of pasting a sample is made of."""

    bg: str
    fg: str
    round: str


def sample_key(bg: int, fg: int, round: int) -> str:
    """Name the sample of background number `bg` with figure number `fg` as the system of 2020 named its files."""
    return f"combined_s{bg}_p{fg}_it{round}"


def identity(key: str) -> Identity | None:
    """Tell what a sample is made of by its key; None where the key is not of the form that `sample_key` writes."""
    found = _NUMBERED.fullmatch(key)
    return Identity(**found.groupdict()) if found else None


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"
