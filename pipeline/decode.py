"""The DALI graph: encoded bytes to tensors of integers, on the GPU or on the CPU; and the resize that follows."""

from collections.abc import Collection
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from pipeline.portable import PortableDecoder
from pipeline.reader import Encoded
from shards.errors import InputError

Decode = Literal["auto", "gpu", "cpu", "portable"]


class ImageDecoder(Protocol):
    def decode(self, encoded: dict[str, Encoded]) -> dict[str, Tensor]:
        """Images by component, (N, H, W, C), uint8, or uint16 where they have 16 bits a value.

        Raises ValueError if one does not decode, or sizes differ.
        """


def candidates(decode: Decode, device: torch.device) -> list[Decode]:
    """What `decode` may mean on this machine: several only for `auto` with a GPU, where which is faster depends.

    Raises InputError if what is asked for is not to be had.
    """
    dali = find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None
    if decode == "auto":
        return ["portable"] if not dali else ["gpu", "cpu"] if device.type == "cuda" else ["cpu"]
    if decode != "portable" and not dali:
        raise InputError(f"decode={decode} needs NVIDIA DALI, which is not installed here. Use decode=portable.")
    if decode == "gpu" and device.type != "cuda":
        raise InputError("decode=gpu needs a CUDA device, and there is none. Use decode=cpu.")
    return [decode]


def make_decoder(
    decode: Decode,
    channels: dict[str, int],
    batch_size: int,
    device: torch.device,
    hw_decoder_load: float,
    deep: Collection[str] = (),
) -> ImageDecoder:
    """A decoder of up to `batch_size` images of each of the components in `channels`, for one thread.

    deep: those of the components that have 16 bits a value.
    hw_decoder_load: the share of JPEGs that goes to the GPU's JPEG engine, where it has one.
    """
    if decode == "portable":
        return PortableDecoder(channels, deep)
    return DaliDecoder(channels, batch_size, device if decode == "gpu" else None, hw_decoder_load, deep)


class DaliDecoder:
    """Decodes with DALI: on the host, or where `device` is given on that GPU, from where nothing comes back.

    One thread and no queue of its own: the loader runs several of them side by side, each with its own batch. On 2
    cores that decodes and resizes 1.4 times as many samples a second as one pipeline with 2 threads (bench/LOG.md),
    and an error stays with the batch it belongs to.
    """

    def __init__(
        self,
        channels: dict[str, int],
        batch_size: int,
        device: torch.device | None,
        hw_decoder_load: float,
        deep: Collection[str],
    ) -> None:
        from nvidia.dali import Pipeline, fn, types
        from nvidia.dali.tensors import TensorCPU, TensorListCPU

        self._tensor, self._list = TensorCPU, TensorListCPU
        device_id = None if device is None else device.index or 0
        self._names, self._device = list(channels), device
        self._pipeline = Pipeline(batch_size=batch_size, num_threads=1, device_id=device_id, prefetch_queue_depth=1)
        with self._pipeline:
            self._pipeline.set_outputs(
                *(
                    fn.decoders.image(
                        fn.external_source(name=name, no_copy=True),
                        output_type=types.RGB if count == 3 else types.GRAY,
                        dtype=types.UINT16 if name in deep else types.UINT8,
                        **(
                            {"device": "cpu"}
                            if device is None
                            else {"device": "mixed", "hw_decoder_load": hw_decoder_load}
                        ),
                    )
                    for name, count in channels.items()
                )
            )
        self._pipeline.build()

    def decode(self, encoded: dict[str, Encoded]) -> dict[str, Tensor]:
        """As ImageDecoder says. After an error it works again: DALI loses the batch, not the pipeline."""
        try:
            # Given arrays instead, DALI looks at each one in Python: 5 us an image, with the interpreter locked.
            lists = {name: self._list([self._tensor(image) for image in images]) for name, images in encoded.items()}
            decoded = self._pipeline.run(**lists)
        except RuntimeError as error:
            raise ValueError(f"an image does not decode: {error}") from error
        tensors = {name: _as_tensor(images) for name, images in zip(self._names, decoded, strict=True)}
        return tensors if self._device is None else _copies(tensors, self._device)


def _as_tensor(images: Any) -> Tensor:
    if not images.is_dense_tensor():
        raise ValueError("the images of a batch are not all of one size")
    return torch.utils.dlpack.from_dlpack(images.as_tensor())


def _copies(images: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copies that are finished. DALI uses the GPU memory of its outputs again once they go, whoever still reads it."""
    copies = {name: image.clone() for name, image in images.items()}
    torch.cuda.current_stream(device).synchronize()
    return copies


def resize(images: Tensor, size: int | None) -> Tensor:
    """(N, H, W, C) to (N, C, size, size), channels_last, uint8 or uint16; only rearranged if `size` is None or theirs.

    Bilinear with antialiasing. uint8 on the host in uint8, on CUDA in float, rounded: at most 1 apart. uint16 in float.
    """
    channels = images.shape[3]
    if size is None or images.shape[1:3] == (size, size):
        return images.permute(0, 3, 1, 2)
    if images.dtype == torch.uint16:
        scaled = _scaled(images.float(), size, size).round_().clamp_(0, 65535)
        return scaled.int().to(torch.uint16).permute(0, 3, 1, 2)
    if images.is_cuda:
        scaled = _scaled(images.half(), size, size)
        return scaled.round_().clamp_(0, 255).to(torch.uint8).permute(0, 3, 1, 2)
    rows = _scaled_rows(images, size)
    if channels > 1 or size % 4:
        return _scaled(rows, size, size).permute(0, 3, 1, 2)
    columns = _scaled_rows(rows.transpose(1, 2), size)
    return columns.permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)


def _scaled(images: Tensor, height: int, width: int) -> Tensor:
    """(N, H, W, C) to (N, height, width, C)."""
    images = images.permute(0, 3, 1, 2)
    scaled = torch.nn.functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return scaled.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


def _scaled_rows(images: Tensor, height: int) -> Tensor:
    """(N, H, W, C) to (N, height, W, C), where it can as an image of four channels and fewer columns.

    PyTorch's vector code is for three and four channels, and fastest for four: from 160 to 64 px, columns as rows the
    same way, a grey image takes 7.6 us instead of 25.8, a coloured one 9.4 instead of 13.
    """
    count, _, width, channels = images.shape
    if width * channels % 4 or width * channels == 4:  # of one column PyTorch 2.13 makes other pixels
        return _scaled(images, height, width)
    packed = images.reshape(count, -1, width * channels // 4, 4)
    return _scaled(packed, height, packed.shape[2]).reshape(count, height, width, channels)
