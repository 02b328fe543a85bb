"""MosaicML Streaming. Empty packages in the place of `streaming` and `streaming.base` do not import torchvision, whose
wheel does not import beside PyTorch's CPU build, and transformers.
"""

# mypy: disable-error-code="import-not-found"

import sys
from importlib.metadata import distribution
from types import ModuleType

for _name in ("streaming", "streaming.base"):
    sys.modules[_name] = ModuleType(_name)
    sys.modules[_name].__path__ = [str(distribution("mosaicml-streaming").locate_file(_name.replace(".", "/")))]

from streaming.base.dataset import StreamingDataset as StreamingDataset  # noqa: E402 - after the stand-ins
from streaming.base.format import MDSWriter as MDSWriter  # noqa: E402 - after the stand-ins
from streaming.base.util import clean_stale_shared_memory as clean_stale_shared_memory  # noqa: E402 - likewise
