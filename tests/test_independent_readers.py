"""Readers that know nothing of this project see exactly our samples: the webdataset library and DALI's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_data import SAMPLES, images

from shards.format.dataset import Dataset

EXTENSIONS = ["fg_bg.jpg", "mask.jpg", "depth.jpg", "bg.jpg"]


@pytest.fixture(scope="module")
def expected(dataset: Path) -> dict[str, dict[str, bytes]]:
    return images(Dataset.open(dataset))


def shards(dataset: Path) -> list[str]:
    return sorted(str(path) for path in dataset.glob("shard-*.tar"))


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the library leaves that to the collector
def test_webdataset_sees_our_keys_and_bytes(dataset: Path, expected: dict[str, dict[str, bytes]]) -> None:
    webdataset = pytest.importorskip("webdataset")
    found = {
        sample["__key__"].rpartition("/")[2]: {name.partition(".")[0]: sample[name] for name in EXTENSIONS}
        for sample in webdataset.WebDataset(shards(dataset), shardshuffle=False)
    }
    assert found == expected
    assert list(found) == list(expected)


def dali_samples(dataset: Path, batch_size: int = 30) -> Iterator[tuple[bytes, ...]]:
    """The samples in DALI's order, each the bytes of its images in the order of EXTENSIONS."""
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import Pipeline, fn

    pipeline = Pipeline(batch_size=batch_size, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        read = fn.readers.webdataset(
            paths=shards(dataset),
            index_paths=[path.replace(".tar", ".idx") for path in shards(dataset)],
            ext=EXTENSIONS,
            missing_component_behavior="error",
        )
        pipeline.set_outputs(*read)  # type: ignore[misc]
    pipeline.build()
    for _ in range(SAMPLES // batch_size):
        batch = [[images.at(i).tobytes() for i in range(batch_size)] for images in pipeline.run()]
        yield from zip(*batch, strict=True)


def test_dali_sees_our_bytes_through_our_index(dataset: Path, expected: dict[str, dict[str, bytes]]) -> None:
    found = list(dali_samples(dataset))
    assert found == [tuple(parts[name.partition(".")[0]] for name in EXTENSIONS) for parts in expected.values()]
