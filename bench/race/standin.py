"""Streaming imports two packages for data sets that are not raced here: torchvision and transformers.

They are not installed: torchvision's wheel does not import beside PyTorch's CPU build and takes others down with it.
Empty stand-ins let Streaming be imported; nothing that runs in the race touches them.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

WANTED = {
    "torchvision": (),
    "torchvision.datasets": ("VisionDataset", "CIFAR10"),
    "torchvision.transforms": (),
    "torchvision.transforms.functional": ("to_tensor",),
    "transformers": (),
    "transformers.models": (),
    "transformers.models.auto": (),
    "transformers.models.auto.tokenization_auto": ("AutoTokenizer",),
    "transformers.feature_extraction_utils": ("BatchFeature",),
    "transformers.tokenization_utils_base": ("BatchEncoding",),
}


@contextmanager
def standing_in() -> Iterator[None]:
    """Empty modules and classes in place of the two while something is imported."""
    for name, wanted in WANTED.items():
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
        for one in wanted:
            setattr(sys.modules[name], one, type(one, (), {}))
    try:
        yield
    finally:
        for name in WANTED:
            del sys.modules[name]
