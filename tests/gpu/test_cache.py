"""The cache on the device: the same pixels, one kernel a batch, and nothing passes through the host."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bench.gpu.scale import Scale
from pipeline.loader import Loader, LoaderConfig
from shards.errors import InputError

IMAGES, CHANNELS = ("fg_bg", "bg", "mask", "depth"), 3 + 3 + 1 + 1
BATCHES = 8


@pytest.fixture
def small(config: LoaderConfig) -> LoaderConfig:
    """The test split, which an epoch fills soon."""
    return replace(config, split="test")


@pytest.mark.parametrize("cache", ["host", "device"])
def test_what_it_gives_is_what_was_decoded(small: LoaderConfig, device: torch.device, cache: Any) -> None:
    """Compared with its own first epoch: which unit of the GPU decodes an image, and how, depends on its batch."""
    if device.type == "cpu" and cache == "device":
        with pytest.raises(InputError, match="needs a CUDA device"):
            Loader(replace(small, cache=cache), device=device)
        return
    with Loader(replace(small, cache=cache), device=device) as loader:
        filling = list(loader)
        first = {int(row): i for i, row in enumerate(torch.cat([batch.index for batch in filling]))}
        decoded = [torch.cat(parts) for parts in zip(*(batch[:4] for batch in filling), strict=True)]
        before = loader.stats
        for batch in loader:
            places = torch.tensor([first[int(row)] for row in batch.index], device=device)
            for name, image, all_of_it in zip(IMAGES, batch[:4], decoded, strict=True):
                assert image is not None
                assert image.device.type == device.type
                assert torch.equal(image, all_of_it[places]), name
        assert loader.stats.since(before).spent["decode"] == 0


def test_a_batch_from_the_device_is_one_kernel(
    small: LoaderConfig, device: torch.device, tmp_path: Path, record_property: Any
) -> None:
    """And what is copied is where its images lie, 8 bytes for each of their channels."""
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with Loader(replace(small, cache="device" if on_cuda else "host"), device=device) as loader:
        for _ in loader:
            pass
        with profile(activities=activities) as gathering:
            batches = list(loader)
    gathering.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    kernels = sum(event.get("cat") == "kernel" for event in events)
    copied = sum(event["args"]["bytes"] for event in events if event.get("cat") == "gpu_memcpy")
    record_property("kernels_per_batch", kernels / len(batches))
    record_property("bytes_copied_per_batch", copied / len(batches))
    assert kernels == (len(batches) if on_cuda else 0)
    assert copied <= sum(len(batch.index) for batch in batches) * 8 * CHANNELS


def test_a_device_without_an_index_is_the_first(config: LoaderConfig, scale: Scale, device: torch.device) -> None:
    """With its cache, too. Decoded on the host, where the same file gives the same pixels each time."""
    small = replace(config, split="test", decode="cpu")
    with (
        Loader(replace(small, cache=scale.cache), device=device.type) as without,
        Loader(small, device=device) as with_index,
    ):
        for _ in range(2):
            for one, other in zip(without, with_index, strict=True):
                assert torch.equal(one.index, other.index)
                for image, same in zip(one[:4], other[:4], strict=True):
                    assert image is not None
                    assert same is not None
                    assert image.device == device
                    assert torch.equal(image, same)


def test_auto_measures_and_says_what_it_chose(
    config: LoaderConfig, scale: Scale, device: torch.device, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    with caplog.at_level(logging.INFO, "pipeline"), Loader(replace(config, decode="auto"), device=device) as loader:
        assert loader.decode in ("gpu", "cpu")
        said = [record.getMessage() for record in caplog.records if "made the first batches fastest" in record.message]
        assert len(said) == (1 if device.type == "cuda" else 0)
        record_property("said", said)
        state = loader.state_dict() | {"decode": "cpu"}
        loader.load_state_dict(state)
        assert loader.decode == "cpu"
