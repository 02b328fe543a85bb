"""A teacher: a depth estimation model of Hugging Face transformers, by its name on the hub or from a local folder.

The one module of this room that knows torch and transformers, which it imports only when a teacher is asked for.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.depth import METRES, DepthFormat, DepthRange, Metres
from shards.format.fields import Bounds, Checked
from shards.machine import cpu_count


@dataclass(frozen=True, kw_only=True)
class DepthConfig(Checked):
    """Which teacher predicts the depth, what its numbers mean, how it runs, and how the depth is stored."""

    teacher: str = "depth-anything/Depth-Anything-V2-Small-hf"
    """name on the Hugging Face hub, or a local folder; docs/data.md names some for relative depth and for metres"""
    predicts: Literal["auto", "metres", "near-is-bright", "near-is-dark"] = "auto"
    """metres, or relative depth that is greater where near or where far; auto: as the model's configuration says"""
    metres: tuple[Metres, Metres] | None = None
    """depth that black and white stand for, of a model that predicts metres; beyond it is cut off. 0 10 if not given"""
    batch_size: Annotated[int, Bounds(1, 2**16)] = 32
    """images that the model sees at once"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto is cuda where there is one"""
    format: DepthFormat = "jpg"
    """jpg as in 2020, png without its loss, or png16: 16 bits a value"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metres:
            DepthRange.metres(*self.metres)

    @property
    def depth_range(self) -> DepthRange:
        """The range that the depth is stored in, once `predicts` is resolved."""
        if self.predicts == "metres":
            return DepthRange.metres(*self.metres) if self.metres else METRES
        return DepthRange.relative(near_is_bright=self.predicts == "near-is-bright")


class Teacher:
    """A model on its device. On a CPU the same batch gives the same depth, to the bit; another differs in rounding."""

    def __init__(self, config: DepthConfig) -> None:
        """`config` must be resolved. Raises InputError if there is no such model, or if it is none for depth."""
        import torch
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        if config.device == "cuda" and not torch.cuda.is_available():
            raise InputError("device=cuda, but PyTorch finds no CUDA device. Use --device cpu.")
        on_gpu = config.device != "cpu" and torch.cuda.is_available()
        self._device, self._config = torch.device("cuda" if on_gpu else "cpu"), config
        _configuration(config.teacher)
        with _model_errors(config.teacher):
            # By Pillow even where there is torchvision, which scales a little differently.
            self._processor = AutoImageProcessor.from_pretrained(config.teacher, backend="pil")
            model, about = AutoModelForDepthEstimation.from_pretrained(config.teacher, output_loading_info=True)
        if about["missing_keys"]:
            some = ", ".join(sorted(about["missing_keys"])[:3])
            raise InputError(f"{config.teacher}: it has no weights for {some}, so its depth would be noise.")
        self._model = model.eval().to(self._device)
        self._pool = ThreadPoolExecutor(cpu_count())

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Predict depth (H, W) of each RGB image (H, W, 3) of a batch: metres, or 0 (near) to 1 (far) over each image.

        An image of one value is all near. Raises InputError if what the model says is no number.
        """
        import torch

        teacher, cuda = self._config.teacher, self._device.type == "cuda"
        each = list(self._pool.map(lambda image: self._processor(images=image, return_tensors="pt"), images))
        inputs = {name: torch.cat([one[name] for one in each]).to(self._device) for name in each[0]}
        sizes = [image.shape[:2] for image in images]
        try:
            # Half precision, not bfloat16, whose 8 bits are fewer than the steps of what is stored.
            with torch.inference_mode(), torch.autocast(self._device.type, torch.float16, enabled=cuda):
                outputs = self._model(**inputs)
            outputs["predicted_depth"] = outputs["predicted_depth"].float()
            found = self._processor.post_process_depth_estimation(outputs, target_sizes=sizes)
        except torch.OutOfMemoryError as error:
            raise InputError(f"{teacher}: {error} Use a smaller --batch-size.") from None
        except (AttributeError, ValueError) as error:
            raise InputError(f"{teacher}: its processor makes no depth of the images' size ({error}).") from None
        depths = [one["predicted_depth"].cpu().numpy() for one in found]
        if not all(np.isfinite(depth).all() for depth in depths):
            raise InputError(f"{teacher}: its depth is no number. Try --device cpu.")
        if self._config.predicts == "metres":
            return depths
        distances = (-depth if self._config.predicts == "near-is-bright" else depth for depth in depths)
        from_nearest = (one - one.min() for one in distances)
        return [one / max(one.max(), np.finfo(np.float32).tiny) for one in from_nearest]


load_teacher = lru_cache(maxsize=1)(Teacher)
"""Loads the teacher of this process: once, whatever the number of shards."""


def resolved(config: DepthConfig) -> DepthConfig:
    """Fill in what the model predicts, where that was left to it. Reads its configuration, not its weights.

    Raises InputError if transformers is not installed, if there is no such model, or if it does not say; and if metres
    are asked of relative depth.
    """
    predicts, about = config.predicts, _configuration(config.teacher)
    if predicts == "auto":
        kind = getattr(about, "depth_estimation_type", None)
        if kind == "metric" or about.model_type == "glpn":
            predicts = "metres"
        elif kind == "relative":  # Depth Anything's word for the inverse of depth
            predicts = "near-is-bright"
        else:
            raise InputError(
                f"{config.teacher}: a model of type {about.model_type} may predict metres or the inverse of depth, and "
                "its configuration does not say which. Its model card does: --predicts metres, near-is-bright or "
                "near-is-dark."
            )
    if config.metres and predicts != "metres":
        raise InputError(
            f"{config.teacher}: its depth is relative ({predicts}), which has no metres. Leave --metres out, or choose "
            "a model that predicts them."
        )
    return replace(config, predicts=predicts)


def model_digest(config: DepthConfig) -> bytes:
    """Tell two versions of a model apart: by the commit of one on the hub, by the digest of a folder's files."""
    folder = Path(config.teacher)
    if not folder.is_dir():
        return f"{config.teacher} {getattr(_configuration(config.teacher), '_commit_hash', None)}".encode()
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".bin"):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.digest()


def _configuration(teacher: str) -> Any:
    with _model_errors(teacher):
        from transformers import AutoConfig
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        return AutoConfig.from_pretrained(teacher)


@contextmanager
def _model_errors(teacher: str) -> Iterator[None]:
    """Turn what transformers raises into InputError."""
    try:
        yield
    except ImportError as error:
        raise InputError(f"a teacher needs more packages: pip install -r requirements-teacher.txt ({error})") from None
    except Exception as error:  # of the libraries below it too, which have bases of their own
        reason = " ".join(str(error).split())
        raise InputError(
            f"{teacher}: no depth estimation model that can be loaded. Give a name on the Hugging Face hub, or a "
            f"folder that save_pretrained wrote, with its preprocessor_config.json. ({reason[:300]})"
        ) from error
