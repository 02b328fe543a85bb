"""Encoded bytes to tensors of integers by DALI, on the GPU or on the CPU; and the resize that follows."""

from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pipeline.memory import wait_for
from pipeline.portable import Components, PortableDecoder
from pipeline.reader import WORD, Encoded
from shards.errors import InputError
from shards.format.images import encode_image

Decode = Literal["auto", "gpu", "cpu", "portable"]

_CUTS = 256
"""samples in a batch from which on DALI itself cuts the images out of their rows: a few more steps for each batch on
its threads, but none for each image in Python (bench/LOG.md)"""


def candidates(decode: Decode, device: torch.device) -> list[Decode]:
    """Return what `decode` may mean on this machine: several only for `auto` with a GPU, where which is faster depends.

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


class DaliDecoder:
    """Decodes with DALI: on the host, or where `device` is given on that GPU, from where nothing comes back.

    One thread and no queue of its own: the loader runs several of them side by side, each with its own batch. That is
    faster than one pipeline with several threads (bench/LOG.md), and an error stays with the batch it belongs to.
    """

    def __init__(
        self,
        components: Components,
        batch_size: int,
        image_size: tuple[int, int],
        device: torch.device | None,
        hw_decoder_load: float,
    ) -> None:
        """image_size: height and width of what will be decoded. Images of 16 bits are decoded on the host anyhow."""
        from nvidia.dali import Pipeline, fn, types
        from nvidia.dali.tensors import TensorCPU, TensorListCPU

        self._tensor, self._list, self._names, self._device = TensorCPU, TensorListCPU, list(components), device
        self._cuts = batch_size >= _CUTS
        device_id = None if device is None else device.index
        on_gpu = {"device": "mixed", "hw_decoder_load": hw_decoder_load, "jpeg_fancy_upsampling": True}
        self._pipeline = Pipeline(batch_size=batch_size, num_threads=1, device_id=device_id, prefetch_queue_depth=1)
        with self._pipeline:
            outputs, rows = [], fn.external_source(name="rows", no_copy=True) if self._cuts else None
            for name, component in components.items():
                source = fn.external_source(name=name, no_copy=True)  # images, or where in their rows they begin
                image = source
                if self._cuts:
                    size = fn.external_source(name=f"{name} size", no_copy=True)
                    image = fn.reinterpret(fn.slice(rows, source, size, axes=[0]), dtype=types.UINT8)
                output_type = types.RGB if component.channels == 3 else types.GRAY
                deep = component.bits == 16
                where = {"device": "cpu"} if device is None or deep else on_gpu
                dtype = types.UINT16 if deep else types.UINT8
                outputs.append(fn.decoders.image(image, output_type=output_type, dtype=dtype, **where))
            self._pipeline.set_outputs(*outputs)
        self._pipeline.build()
        if device is not None:  # the first batch settles how much goes to the JPEG engine: let it be a full one
            self.decode(_blank(components, batch_size, image_size))

    def decode(self, encoded: Encoded) -> dict[str, Tensor]:
        """See PortableDecoder. After an error it works again: DALI loses the batch, not the pipeline."""
        stream = None if self._device is None else torch.cuda.current_stream(self._device)
        try:
            decoded = self._pipeline.run(stream, **self._inputs(encoded))
        except RuntimeError as error:
            raise ValueError(f"an image does not decode: {error}") from error
        if not all(images.is_dense_tensor() for images in decoded):
            raise ValueError("the images of a batch are not all of one size")
        tensors = {name: from_dlpack(one.as_tensor()) for name, one in zip(self._names, decoded, strict=True)}
        if stream is None:
            return tensors
        # Finished copies: DALI uses the memory of its outputs again once they go, whoever still reads it.
        copies = {name: image.clone() for name, image in tensors.items()}
        wait_for(stream)
        return copies

    def _inputs(self, encoded: Encoded) -> dict[str, Any]:
        if not self._cuts:
            # With the interpreter locked, DALI would look at each array in Python, and copy images to be contiguous.
            images = {name: [self._tensor(image) for image in encoded.images(name)] for name in self._names}
            return {name: self._list(one, contiguous=False) for name, one in images.items()}  # type: ignore[call-overload]  # stub lacks it
        inputs = {"rows": self._list(encoded.rows.view(np.int64))}  # because it copies slices element by element
        for name in self._names:
            inputs[name] = self._list(encoded.begin[name][:, None] // WORD)
            inputs[f"{name} size"] = self._list(-(-encoded.size[name][:, None] // WORD))
        return inputs


def _blank(components: Components, count: int, size: tuple[int, int]) -> Encoded:
    """Return encoded black images."""
    images = []
    for one in components.values():
        mode = "I;16" if one.bits == 16 else "RGB" if one.channels == 3 else "L"
        image = encode_image(Image.new(mode, size[::-1]), one.extension)
        images.append(image + bytes(-len(image) % WORD))
    sizes = np.array([[len(image)] * count for image in images])
    begins = np.cumsum(sizes, 0) - sizes
    rows = np.frombuffer(b"".join(images) * count, np.uint8).reshape(count, -1)
    return Encoded(rows, *(dict(zip(components, column, strict=True)) for column in (begins, sizes)))


ImageDecoder = PortableDecoder | DaliDecoder


def make_decoder(
    decode: Decode,
    components: Components,
    batch_size: int,
    image_size: tuple[int, int],
    device: torch.device,
    hw_decoder_load: float,
) -> ImageDecoder:
    """Make a decoder, for one thread, of up to `batch_size` images of each of `components`.

    image_size: height and width that they have. hw_decoder_load: the share of JPEGs that goes to the GPU's JPEG engine,
    where it has one. Raises InputError if there is no room for it.
    """
    if decode == "portable":
        return PortableDecoder(components)
    try:
        return DaliDecoder(components, batch_size, image_size, device if decode == "gpu" else None, hw_decoder_load)
    except RuntimeError as error:
        told = str(error).strip().rpartition("\n")[2]
        raise InputError(f"DALI cannot begin ({told}). Take fewer --num-threads, or --decode portable.") from error


def resize(images: Tensor, size: int | None) -> Tensor:
    """Resize (N, H, W, C), uint8 or uint16, to (N, C, size, size), channels_last; None or their own size: rearrange.

    Bilinear with antialiasing. uint8 on the host in uint8, on CUDA in float, rounded: at most 1 apart. uint16 in float.
    """
    if size is None or images.shape[1:3] == (size, size):
        return images.permute(0, 3, 1, 2)
    if images.dtype == torch.uint16:
        scaled = _scaled(images.float(), size, size).round_().clamp_(0, 65535)
        return scaled.int().to(torch.uint16).permute(0, 3, 1, 2)
    if images.is_cuda:
        scaled = _scaled(images.half(), size, size).round_().clamp_(0, 255)
        # Of one channel the strides may be any; compiled code accepts those of a contiguous tensor only.
        return scaled.to(torch.uint8, memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
    rows = _scaled_rows(images, size)
    if images.shape[3] > 1 or size % 4:
        return _scaled(rows, size, size).permute(0, 3, 1, 2)
    columns = _scaled_rows(rows.transpose(1, 2), size)
    return columns.permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)


def _scaled(images: Tensor, height: int, width: int) -> Tensor:
    """Scale (N, H, W, C) to (N, height, width, C)."""
    images = images.permute(0, 3, 1, 2)
    scaled = torch.nn.functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return scaled.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


def _scaled_rows(images: Tensor, height: int) -> Tensor:
    """Scale (N, H, W, C) to (N, height, W, C), where possible as an image of four channels and fewer columns.

    PyTorch's vector code is for three and four channels, and fastest for four (bench/LOG.md). So a grey image takes a
    third of the time, its columns as rows the same way.
    """
    count, _, width, channels = images.shape
    if width * channels % 4 or width * channels == 4:  # of one column PyTorch 2.13 makes other pixels
        return _scaled(images, height, width)
    packed = images.reshape(count, -1, width * channels // 4, 4)
    return _scaled(packed, height, packed.shape[2]).reshape(count, height, width, channels)
