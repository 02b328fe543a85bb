"""Batches decoded on the GPU: the right pixels, on the device, and no way back."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.gpu.scale import Scale
from pipeline.batch import Batch
from pipeline.decode import make_decoder
from pipeline.loader import Loader, LoaderConfig
from pipeline.reader import WORD, Encoded
from shards.format.dataset import Dataset
from shards.format.images import encode_image
from shards.format.manifest import StoredComponent

Record = Callable[[str, object], None]
Rows = NDArray[np.int64]
BATCHES = 8
IMAGES = ("fg_bg", "bg", "mask", "depth")


def busy(device: torch.device) -> None:
    """Gives the current stream work for some milliseconds, as training would."""
    some = torch.randn(4096 if device.type == "cuda" else 64, 64, device=device)
    for _ in range(20):
        some = (some @ some.T @ some).tanh()


def differences(one: Tensor, other: Tensor) -> Tensor:
    """How often two sets of images differ by 0, 1, ... 255, for each image, int64 (N, 256)."""
    apart = (one.int() - other.int()).abs().flatten(1)
    counts = torch.zeros(len(apart), 256, dtype=torch.int64, device=apart.device)
    return counts.scatter_add_(1, apart.long(), torch.ones_like(apart, dtype=torch.int64))


def measured(counts: Tensor) -> dict[str, float]:
    """Mean, greatest and 99.9th percentile of the difference, and the greatest mean of a single image."""
    values = torch.arange(256, device=counts.device)
    whole, means = counts.sum(0), (counts * values).sum(1) / counts.sum(1)
    return {
        "mean": float(means.mean()),
        "max": float(values[whole > 0].max()),
        "p99.9": float((whole.cumsum(0) < 0.999 * whole.sum()).sum()),
        "worst image": float(means.max()),
    }


# Libraries differ in the inverse DCT (by 1 or 2) and in how they fill in the colour between the half as many colour
# samples: on the drawn images the latter alone makes a mean of 1.0 and a 99.9th percentile of 15 at 160 pixels, 0.3
# and 3 after the resize to 64. An image that was overwritten while it was read would be off by tens in its mean.
@pytest.mark.parametrize("stored", [False, True], ids=["resized", "as stored"])
def test_they_equal_those_decoded_on_the_host(
    config: LoaderConfig, scale: Scale, device: torch.device, stored: bool, record_property: Record
) -> None:
    config = replace(config, size=0 if stored else scale.size)
    counts: dict[str, list[Tensor]] = {name: [] for name in IMAGES}
    oracle = replace(config, decode="cpu" if device.type == "cuda" else "portable")
    with Loader(config, device=device) as ours, Loader(oracle, device=device) as theirs:
        for _, one, other in zip(range(BATCHES), ours, theirs, strict=False):
            busy(device)
            assert torch.equal(one.index, other.index)
            for name in IMAGES:
                counts[name].append(differences(getattr(one, name), getattr(other, name)))
    for name, several in counts.items():
        found = measured(torch.cat(several))
        record_property(name, found)
        assert found["mean"] < 2, name
        assert found["worst image"] < 4, name
        assert found["p99.9"] < 24, name


def test_they_are_whole_while_the_trainer_lags_behind(config: LoaderConfig, device: torch.device) -> None:
    """The memory of a batch that the host has dropped stays until what the device does with it is done."""
    sums: dict[int, Tensor] = {}
    with Loader(config, device=device) as loader:
        for _, batch in zip(range(4 * BATCHES), loader, strict=False):
            busy(device)
            sums[int(batch.index[0])] = batch.fg_bg[0].sum(dtype=torch.int64)
    with Loader(replace(config, num_threads=1), device=device) as loader:
        for _, batch in zip(range(4 * BATCHES), loader, strict=False):
            expected, pixels = int(batch.fg_bg[0].sum(dtype=torch.int64)), batch.fg_bg[0].numel()
            assert abs(int(sums[int(batch.index[0])]) - expected) < 0.5 * pixels


def test_depth_of_16_bits_is_decoded_as_it_is(scale: Scale, device: torch.device) -> None:
    depths = np.random.default_rng(0).integers(0, 65536, (8, 160, 160), np.uint16)
    files = [encode_image(Image.fromarray(depth), "png") for depth in depths]
    sizes = np.array([len(file) for file in files])
    longest = -(-sizes.max() // WORD) * WORD
    rows = np.stack([np.frombuffer(file.ljust(longest, b"\0"), np.uint8) for file in files])
    components = {"depth": StoredComponent(extension="png", channels=1, bits=16)}
    decoder = make_decoder(scale.decode, components, 8, (160, 160), device, hw_decoder_load=0.9)
    images = decoder.decode(Encoded(rows, {"depth": np.zeros_like(sizes)}, {"depth": sizes}))["depth"]
    assert images.dtype == torch.uint16
    assert np.array_equal(images.cpu().numpy()[..., 0], depths)


def test_they_lie_on_the_device(config: LoaderConfig, device: torch.device) -> None:
    with Loader(config, device=device) as loader:
        batch: Batch = next(iter(loader))
    for name in IMAGES:
        image: Tensor = getattr(batch, name)
        assert (image.device.type, image.dtype) == (device.type, torch.uint8)
        assert image.is_contiguous(memory_format=torch.channels_last)
    assert batch.index.device.type == "cpu"


def bytes_to_host(trace: Path) -> int:
    events = json.loads(trace.read_text())["traceEvents"]
    return sum(event["args"]["bytes"] for event in events if "Memcpy DtoH" in event.get("name", ""))


def test_no_pixels_return_to_the_host(
    config: LoaderConfig, device: torch.device, tmp_path: Path, record_property: Record
) -> None:
    """Status words may; what is allowed for a whole batch is less than one grey image of it."""
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    known = torch.zeros(1 << 20, dtype=torch.uint8, device=device)
    with profile(activities=activities) as with_copy:
        known.cpu()
    with Loader(config, device=device) as loader:
        batches = iter(loader)
        smallest = next(batches).fg_bg[0, 0].numel()
        with profile(activities=activities) as loading:
            for _ in range(BATCHES):
                next(batches)
    with_copy.export_chrome_trace(str(tmp_path / "copy.json"))
    loading.export_chrome_trace(str(tmp_path / "loading.json"))
    assert bytes_to_host(tmp_path / "copy.json") == (len(known) if on_cuda else 0), "the profiler does not see copies"
    returned = bytes_to_host(tmp_path / "loading.json")
    record_property("bytes_to_host_per_batch", returned / BATCHES)
    assert returned < BATCHES * smallest


@pytest.fixture(params=[1, 3], ids=["one", "three"])
def damaged(data: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Rows]:
    """The data set, with images of its first training samples overwritten by zeros; and the rows of these samples."""
    root = tmp_path / "damaged"
    shutil.copytree(data, root, copy_function=os.symlink)
    dataset = Dataset.open(root)
    rows = dataset.split("train")[[3, 5, 11][: request.param]].astype(np.int64)
    for row, name in zip(rows, ("fg_bg", "mask", "depth"), strict=False):
        place = dataset.locate(name, np.array([row]))
        shard = dataset.tar_path(int(place.file[0]))
        if shard.is_symlink():
            original = shard.resolve()
            shard.unlink()
            shutil.copyfile(original, shard)
        with shard.open("r+b") as file:
            file.seek(int(place.offset[0]))
            file.write(bytes(int(place.size[0])))
    return root, rows


def test_bad_images_cost_their_samples_alone(
    config: LoaderConfig, damaged: tuple[Path, Rows], device: torch.device
) -> None:
    """Also where several are in one batch."""
    root, bad = damaged
    with Loader(replace(config, data=root, shuffle=False, check="never"), device=device) as loader:
        rows = torch.cat([batch.index for _, batch in zip(range(BATCHES), loader, strict=False)])
        assert loader.stats.bad == len(bad)
    expected = torch.from_numpy(loader.dataset.split("train")[: len(rows)].astype(np.int64))
    assert torch.equal(rows != expected, torch.isin(expected, torch.from_numpy(bad)))
