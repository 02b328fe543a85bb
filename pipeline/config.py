"""What a loader is asked for."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.cache import Caching
from pipeline.decode import Decode
from shards.errors import InputError

_LEAST = {
    "size": 0,
    "batch_size": 1,
    "shuffle_window": 0,
    "num_threads": 0,
    "prefetch": 1,
    "bank_mib": 0,
    "cache_mib": 0,
    "cache_limit": 1,
    "max_bad": 0,
}


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What is read, in which order, and how it is decoded."""

    data: str | Path
    """folder that holds the data set, or its URL: s3://, gs://, https:// or any other that fsspec knows"""
    split: str = "train"
    size: int = 64
    """height and width of the images in a batch, pixels; 0 leaves them as they are stored"""
    batch_size: int = 32
    """samples in a global batch, all ranks together"""
    shuffle: bool = True
    seed: int = 0
    """decides the order of every epoch"""
    shuffle_window: int = 0
    """shards whose samples are mixed with each other, for disks and networks where random access is slow; 0 is all"""
    decode: Decode = "auto"
    """gpu and cpu are DALI, portable is Pillow; auto measures gpu and cpu where there is a GPU, else takes the first
    of cpu and portable that the machine has"""
    hw_decoder_load: float = 0.9
    """share of the JPEGs that goes to the GPU's JPEG engine, where it has one, with decode=gpu"""
    num_threads: int = 0
    """threads of this rank that decode, each a batch of its own; 0 is one a core, shared among the ranks here"""
    prefetch: int = 2
    """batches a thread decodes ahead of the one that is handed over"""
    bank_mib: int = 1024
    """memory on the device for images that many samples share; if they need more they are decoded for every sample"""
    cache: Caching = "none"
    """keep decoded images in memory, so that only the first epoch decodes: of the host, shared by its ranks, or of
    the device"""
    cache_mib: int = 0
    """keep only as many samples as this holds; 0 keeps all of the split, and says so at once if there is no room"""
    cache_dir: Path = Path("~/.cache/sluice")
    """folder for the shards of data sets at a URL, shared by all processes of the machine"""
    cache_limit: int = 16384
    """room for shards in it, MiB; those used longest ago give way"""
    max_bad: int = 100
    """samples that may fail to decode before the run is stopped"""

    def __post_init__(self) -> None:
        for name, one_type in {"data": str, "cache_dir": Path}.items():  # whoever made it: a command line, JSON, ...
            object.__setattr__(self, name, one_type(getattr(self, name)))
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)}: at least {least} is needed.")
        if not 0 <= self.hw_decoder_load <= 1:
            raise InputError(f"hw_decoder_load={self.hw_decoder_load}: a share from 0 to 1 is needed.")
