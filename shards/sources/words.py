"""What people call folders and files of images, and which component such a name means."""

import re
from functools import lru_cache
from typing import NamedTuple

_KINDS = {
    "depth": "depth disparity disparities disp dmap",
    "mask": "mask msk matte alpha seg segs segmentation silhouette label annotation",
    "bg": "bg background",
    "fg": "fg foreground cutout",
    "overlay": "overlay overlayed overlaid composite composited composed combined merged pasted blended fused",
    "image": "image img rgb photo picture color colour input original portrait frame",
    "other": "trimap normal edge instance gt flow semantic confidence",
    "split": "train training val valid validation test testing",
    "kind of file": "jpg jpeg png zip",
    "": "map dense",
}
_OF = {word + plural: kind for kind, words in _KINDS.items() for word in words.split() for plural in ("", "s")}
_JOINED = re.compile("|".join(sorted(_OF, key=len, reverse=True)))
_RUN = re.compile(r"\d+|[^\W\d_]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+")


class Meaning(NamedTuple):
    """Which component a name means ("fg" and "other" are none), and how surely: of two names the surer is meant."""

    component: str
    certainty: int


def words(text: str) -> list[str]:
    """Take a name apart: "FgBg_maskBlack2" is fg, bg, mask, black and 2; "bgimages" is bg and images."""
    found: list[str] = []
    for run in _RUN.findall(text):
        whole = _known(run)
        found += whole if len(whole) > 1 else [word for part in _CAMEL.findall(run) for word in _known(part)]
    return found


def _known(run: str) -> list[str]:
    """Return the known words that letters without a gap are made of; if there are others, these as one word."""
    word = run.lower()
    parts = _JOINED.findall(word)
    return parts if "".join(parts) == word else [word]


@lru_cache(maxsize=1 << 16)
def meaning(text: str) -> Meaning | None:
    """Tell which component a folder's or file's name means; None if none."""
    kinds = {_OF.get(word) for word in words(text)}
    alone = len(kinds & {"fg", "bg"}) == 1 and "overlay" not in kinds  # fg_mask may be the figures', before pasting
    if {"depth", "mask"} <= kinds:  # where depth is known
        return Meaning("other", 2)
    for component in ("depth", "mask"):
        if component in kinds:
            return Meaning(component, 1 if alone else 2)
    if "overlay" in kinds or {"fg", "bg"} <= kinds:
        return Meaning("fg_bg", 3)
    for kind in ("bg", "fg", "other"):
        if kind in kinds:
            return Meaning(kind, 2)
    return Meaning("fg_bg", 1) if "image" in kinds else None


def label(text: str) -> str:
    """Return a name's words without what tells folders of one component apart: "mask" for `train_masks_2_jpg`."""
    apart = ("split", "kind of file")
    return " ".join(word.removesuffix("s") for word in words(text) if _OF.get(word) not in apart and not word.isdigit())


def remainder(text: str) -> str:
    """Return what the name of a component's folder adds to a sample's: its numbers, and train, val or test."""
    return "_".join(word for word in words(text) if word.isdigit() or _OF.get(word) == "split")
