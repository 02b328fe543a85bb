"""FFCV: its JPEG mode, its own decoder and resize, the very bytes that the others read.

Its field knows RGB alone and would encode the images again. Here it is given the bytes as they are, as fields may be
defined by its users; grey ones it decodes to three channels, of which one is handed over.
"""

# mypy: disable-error-code="import-not-found"

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields import RGBImageField
from ffcv.fields.rgb_image import IMAGE_MODES, CenterCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import ToTensor
from ffcv.writer import DatasetWriter
from simplejpeg import decode_jpeg_header

from bench.race.contenders import BATCH, SHAPES, SIZE, WORKERS, Batch
from bench.race.decoding import Encoded


class JpegField(RGBImageField):  # type: ignore[misc]
    """An image that is a JPEG already."""

    @staticmethod
    def from_binary(binary: Any) -> "JpegField":
        return JpegField()

    def encode(self, destination: Any, field: bytes, malloc: Any) -> None:
        height, width, *_ = decode_jpeg_header(field)
        destination["mode"], destination["height"], destination["width"] = IMAGE_MODES["jpg"], height, width
        destination["data_ptr"], storage = malloc(len(field))
        storage[:] = np.frombuffer(field, np.uint8)


class _Rows(Sequence[tuple[bytes, ...]]):
    def __init__(self, samples: Iterator[Encoded]) -> None:
        self.samples = [tuple(sample[name] for name in SHAPES) for sample in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: Any) -> Any:
        return self.samples[number]


def write(samples: Iterator[Encoded], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    writer = DatasetWriter(str(folder / "data.beton"), {name: JpegField() for name in SHAPES}, num_workers=WORKERS)
    writer.from_indexed_dataset(_Rows(samples))


def jpeg(folder: Path) -> Iterator[Batch]:
    loader = Loader(
        str(folder / "data.beton"),
        batch_size=BATCH,
        num_workers=WORKERS,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        custom_fields=dict.fromkeys(SHAPES, JpegField),
        pipelines={name: [CenterCropRGBImageDecoder((SIZE, SIZE), ratio=1), ToTensor()] for name in SHAPES},
    )
    while True:
        for images in loader:
            batch = dict(zip(SHAPES, images, strict=True))
            yield {name: batch[name] if SHAPES[name] == 3 else batch[name][..., 0].contiguous() for name in SHAPES}
