"""All there is to paste, every figure on every background, and which of it is kept."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.compose.paste import PasteConfig
from shards.depth import STORED, DepthFormat
from shards.errors import InputError
from shards.images import formats
from shards.schema import sample_key
from shards.splits import unit_interval
from shards.teacher import PredictConfig
from shards.work.plan import DivisionConfig

__all__ = ["ComposeConfig", "Grid", "Pasting"]


@dataclass(frozen=True, kw_only=True)
class ComposeConfig(PasteConfig):
    """What is pasted where. Each sample's randomness comes from the seed and its own key, from nothing else."""

    fg: Path
    """folder of cut-outs: images with an alpha channel"""
    bg: Path
    """folder of backgrounds; those of another size are cropped to a square and scaled"""
    depth: Path | None = None
    """folder of the backgrounds' depth maps: 16-bit PNG, millimetres, 0 where nothing was measured; named and framed
    like the backgrounds"""
    teacher: str | None = None
    """a model that predicts depth instead, as `python -m shards depth` does; with neither the data set has none yet"""
    predict: PredictConfig = field(default_factory=PredictConfig)
    format: DepthFormat | None = None
    """depth as jpg, as in 2020, png without its loss, or png16: 16 bits a value; png if lossless, else jpg if not
    given"""
    places: int = 20
    """how often each figure is pasted on each background"""
    mirror: bool = False
    """paste each mirrored figure as often again"""
    figures_per_image: tuple[int, int] = (1, 1)
    """least and most figures in an image: the one that the sample is named after, and others drawn from all of them"""
    samples: int | None = None
    """keep so many of them, chosen at random; all if not given"""
    seed: int = 0
    lossless: bool = False
    """mask and depth as PNG instead of JPEG"""
    division: DivisionConfig = field(default_factory=DivisionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth and self.teacher:
            raise InputError("depth is measured or predicted: give --depth or --teacher, not both.")
        if self.predict != PredictConfig() and not self.teacher:
            raise InputError(
                "predicts, metres, batch-size and device are about a teacher. Give --teacher, or none of them."
            )
        if self.places < 1 or (self.samples is not None and self.samples < 1):
            raise InputError("places and samples must be at least 1.")
        least, most = self.figures_per_image
        if not 1 <= least <= most:
            raise InputError(f"figures-per-image {least} {most}: two numbers are needed, 1 <= least <= most.")
        if most > 1 and self.division.split_by == "identity":
            raise InputError(
                "figures-per-image above 1 puts figures of all splits into an image, which is named after one of them, "
                "so it cannot be split by identity. Split by key."
            )

    @property
    def stored_depth(self) -> DepthFormat:
        return self.format or ("png" if self.lossless else "jpg")

    @property
    def components(self) -> dict[str, str]:
        """Each component's extension, of depth too even if that is still to come."""
        return formats(self.lossless) | {"depth": STORED[self.stored_depth][0]}


class Pasting(NamedTuple):
    """One sample to be made: numbers of its background and figure, counted from 1, and its round."""

    bg: int
    fg: int
    round: int

    @property
    def key(self) -> str:
        return sample_key(self.bg, self.fg, self.round)


@dataclass(frozen=True)
class Grid:
    """All there is to paste: every figure on every background, so many rounds of each."""

    figures: tuple[Path, ...]
    backgrounds: tuple[Path, ...]
    config: ComposeConfig

    @property
    def shape(self) -> tuple[int, int, int]:
        rounds = self.config.places * (2 if self.config.mirror else 1)
        return len(self.backgrounds), len(self.figures), rounds

    def pasting(self, number: int) -> Pasting:
        """Counted as the rounds of the first figure on the first background come first."""
        _, figures, rounds = self.shape
        pair, round = divmod(number, rounds)
        bg, fg = divmod(pair, figures)
        return Pasting(bg + 1, fg + 1, round)

    def order(self) -> NDArray[np.uint32]:
        """The numbers of those that are kept, shuffled: by a hash of their keys, which other samples have no part in.

        400,000 take 0.6 s and 8 MB; as a sorted list of tuples they took 100 MB.
        """
        count = int(np.prod(self.shape))
        keys = (self.pasting(number).key for number in range(count))
        hashes = np.fromiter((unit_interval(key, self.config.seed) for key in keys), np.float64, count)
        return np.argsort(hashes, kind="stable")[: self.config.samples].astype(np.uint32)
