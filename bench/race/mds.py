"""MosaicML Streaming without torchvision and transformers, which its package imports for data sets not raced here.

They are not installed: torchvision's wheel does not import beside PyTorch's CPU build. Empty packages in the place of
`streaming` and `streaming.base` import nothing.
"""

# mypy: disable-error-code="import-not-found"

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

if not (_spec := find_spec("streaming")) or not _spec.origin:
    raise ModuleNotFoundError("No module named 'streaming'")
for _name, _folder in {"streaming": ".", "streaming.base": "base"}.items():
    sys.modules[_name] = ModuleType(_name)
    sys.modules[_name].__path__ = [str(Path(_spec.origin).parent / _folder)]

from streaming.base.dataset import StreamingDataset as StreamingDataset  # noqa: E402
from streaming.base.format import MDSWriter as MDSWriter  # noqa: E402
from streaming.base.util import clean_stale_shared_memory as clean_stale_shared_memory  # noqa: E402
