"""How much `make gpu` does: the whole of it on a GPU, or a little of everything on the CPU."""

from dataclasses import dataclass

from pipeline.decode import Decode


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of the data, the tests and the measurements."""

    device: str
    decode: Decode
    """what is tested and measured first"""
    oracle: Decode
    """what its batches are compared with"""
    figures: int
    rooms: int
    samples: int
    stored: tuple[int, ...]
    """heights and widths of the stored images, pixels, of one data set each"""
    whole: int
    """samples of the data set that is read from end to end"""
    hw_decoder_loads: tuple[float, ...]
    """shares of the JPEGs for the JPEG engine"""
    size: int
    """height and width of the images in batches, pixels"""
    width: int
    """of the DualUNet"""
    batch_sizes: tuple[int, ...]
    learn_batch: int
    learn_epochs: int
    learn_iou: float
    """mask IoU that a short training must reach"""
    seconds: float
    """of each measurement"""


FULL = Scale(
    device="cuda",
    decode="gpu",
    oracle="cpu",
    figures=60,
    rooms=60,
    samples=40_000,
    stored=(160, 64),
    whole=400_000,
    hw_decoder_loads=(0.0, 0.5, 0.75, 1.0),
    size=64,
    width=32,
    batch_sizes=(64, 256, 1024),
    learn_batch=128,
    learn_epochs=2,
    learn_iou=0.7,
    seconds=2.0,
)
DRY = Scale(
    device="cpu",
    decode="cpu",
    oracle="portable",
    figures=4,
    rooms=4,
    samples=400,
    stored=(64, 32),
    whole=500,
    hw_decoder_loads=(0.0, 0.5, 0.75, 1.0),
    size=32,
    width=8,
    batch_sizes=(8, 16),
    learn_batch=16,
    learn_epochs=2,
    learn_iou=0.5,
    seconds=0.2,
)
