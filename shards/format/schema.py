"""What a sample is: its components, how they are named in a tar, and how keys and shards are named."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Component:
    """One image of a sample, stored in the tar as `KEY.{name}.{extension}`.

    shared: the same image belongs to many samples; the index keeps each distinct one once (see shards.format.manifest).
    folder: the folder, or the beginning of the zip's name, that holds it in the 2020 layout.
    bits: of a value. 16 only where a data set says so of its depth.
    """

    name: str
    channels: int
    folder: str
    shared: bool = False
    formats: tuple[str, ...] = ("jpg", "png")
    bits: int = 8

    @property
    def glob(self) -> str:
        """Where the 2020 layout keeps this component, zips counted as folders of their own name."""
        return f"**/{self.folder}*/**"


COMPONENTS = (
    Component(name="fg_bg", channels=3, folder="OverlayedImages"),
    Component(name="mask", channels=1, folder="OverlayedMasks"),
    Component(name="depth", channels=1, folder="DepthImage"),
    Component(name="bg", channels=3, folder="Background", shared=True),
)
BY_NAME = {component.name: component for component in COMPONENTS}

# Both webdataset and DALI take everything after the first dot of a member's name as the component, and the text index
# of DALI separates its fields by spaces, so a key may hold neither.
KEY = re.compile(r"[^\s./\\]+")
LONGEST_KEY = 90
"""bytes in UTF-8: with `.fg_bg.jpg` that makes the 100 that USTAR has for a name"""

SHARED_TAR = "shared.tar"
WORK = ".work"
"""folder inside an output folder for what is needed until it is complete"""

_NUMBERED = re.compile(r"combined_s(?P<bg>[^_]+)_p(?P<fg>[^_]+)_it(?P<round>[^_]+)")


@dataclass(frozen=True)
class Identity:
    """Which background, which figure and which round of pasting a sample is made of."""

    bg: str
    fg: str
    round: str


def sample_key(bg: int, fg: int, round: int) -> str:
    """The key of background number `bg` with figure number `fg`, as the 2020 system named its files."""
    return f"combined_s{bg}_p{fg}_it{round}"


def identity(key: str) -> Identity | None:
    """What the key says the sample is made of; None where it is not of the form that `sample_key` writes."""
    found = _NUMBERED.fullmatch(key)
    return Identity(**found.groupdict()) if found else None


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"
