"""The options of a loader."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipeline.cache import Caching
from pipeline.decode import Decode
from pipeline.digests import Check
from shards.format.fields import Bounds, Checked, Count, Seed, Share
from shards.format.storage import refuse_url

Number = Annotated[int, Bounds(0, 10**9)]


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(Checked):
    """The data that a loader reads, the order in which it does, and how they are decoded."""

    data: str | Path
    """folder that holds the data set, or its URL: s3://, gs://, https:// or any other that fsspec knows"""
    split: str = "train"
    """train, val or test"""
    size: Annotated[int, Bounds(0, 2**16 - 1)] = 64
    """height and width of the images in a batch, pixels; 0 leaves them as they are stored"""
    batch_size: Count = 32
    """samples in a global batch, all ranks together"""
    shuffle: bool = True
    """bring the samples of every epoch into another order"""
    seed: Seed = 0
    """decides the order of every epoch"""
    shuffle_window: Number = 0
    """shards whose samples are mixed with each other, for disks and networks where random access is slow; 0 is all"""
    decode: Decode = "auto"
    """gpu and cpu are DALI, portable is Pillow; auto is the fastest that this machine has"""
    hw_decoder_load: Share = 0.9
    """share of the JPEGs that goes to the GPU's JPEG engine, where it has one and decodes"""
    num_threads: Annotated[int, Bounds(0, 256)] = 0
    """decoding threads of this rank, each at a batch of its own; 0 is one a core, divided among the ranks here"""
    prefetch: Annotated[int, Bounds(1, 1024)] = 2
    """batches a thread decodes ahead of the one that is handed over"""
    bank_mib: Number = 1024
    """memory on the device for images that many samples share; if they need more they are decoded for every sample"""
    cache: Caching = "none"
    """keep decoded images in the host's memory, shared by its ranks, or the device's: only the first epoch decodes"""
    cache_mib: Number = 0
    """keep only as many samples as this holds; 0 keeps all of the split, and says so at once if there is no room"""
    cache_dir: Path = Path("~/.cache/sluice")
    """folder that keeps shards of data sets at a URL, and which shards were checked, for all processes here"""
    cache_limit: Count = 16384
    """room for shards in that folder, MiB; those used longest ago give way"""
    check: Check = "once"
    """compare the digests of shards on this machine during the first epoch: once for all runs, in each run, or never"""
    max_bad: Number = 100
    """samples that may fail to decode before the run is stopped"""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "data", str(self.data))  # one type, whoever made it: a command line, a program, JSON
        object.__setattr__(self, "cache_dir", Path(self.cache_dir))
        refuse_url(self.cache_dir)
