"""The loader believes nothing that it has not checked: right pixels, or an error that says what is wrong."""

import io
import os
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_data import flip
from small_runs import trained
from test_loader import epoch, loader, same

from pipeline import digests
from pipeline.batch import Batch
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.manifest import Manifest

Array = NDArray[Any]
FILES = ["samples", "keys", "shared_bg", "train", "val", "test"]
ARRAYS: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "rolled": lambda array, _: np.roll(array, 1),
    "reversed": lambda array, _: array[::-1],
    "rows twice": lambda array, _: np.repeat(array, 2)[: len(array)],
    "twice as long": lambda array, _: np.tile(array, 2),
    "shorter": lambda array, _: array[:-1],
    "empty": lambda array, _: array[:0],
    "a single one": lambda array, _: array[0],
    "another axis": lambda array, _: array[:, None],
    "negative": lambda array, _: -np.arange(len(array)),
    "other bytes": lambda array, random: np.frombuffer(random.bytes(array.nbytes), array.dtype),
    "greater": lambda array, _: np.frombuffer(np.ascontiguousarray(array).view(np.uint8) | 0x80, array.dtype),
    "big-endian": lambda array, _: array.astype(array.dtype.newbyteorder(">")),
    "numbers": lambda array, _: np.arange(len(array), dtype=np.int64),
    "names": lambda array, _: np.full(len(array), "name"),
}
BYTES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "cut": lambda data, random: data[: random.integers(len(data))],
    "longer": lambda data, random: data + data[: random.integers(200)],
    "flipped": lambda data, random: _flipped(data, int(random.integers(len(data)))),
    "flipped in the header": lambda data, random: _flipped(data, int(random.integers(128))),
    "a zip": lambda data, _: b"PK\3\4" + data,
    "none": lambda data, _: b"",
}


def _flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :]


def few(data: Path, **options: Any) -> list[Batch]:
    return epoch(data, split="val", size=0, bank_mib=0, num_threads=1, **options)


@pytest.fixture(scope="module")
def copies(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Batch]]:
    """A copy of the data set; another whose manifest is of old, without digests of the index; and batches of both."""
    new, old = (Path(shutil.copytree(dataset, tmp_path_factory.mktemp("copies") / name)) for name in ("new", "old"))
    (old / "manifest.json").write_text(replace(Manifest.read(old), index={}).to_json())
    return new, old, few(new)


@settings(max_examples=200)
@given(st.sampled_from(FILES), st.sampled_from([*ARRAYS, *BYTES, *FILES]), st.integers(0, 999), st.booleans())
def test_another_index_gives_an_error_or_the_right_pixels(
    copies: tuple[Path, Path, list[Batch]], name: str, change: str, seed: int, known: bool
) -> None:
    new, old, expected = copies
    root, random = new if known else old, np.random.default_rng(seed)
    path = root / "index" / f"{name}.npy"
    whole = path.read_bytes()
    if change in ARRAYS:
        np.save(buffer := io.BytesIO(), ARRAYS[change](np.load(io.BytesIO(whole)), random))
        path.write_bytes(buffer.getvalue())
    elif change in BYTES:
        path.write_bytes(BYTES[change](whole, random))
    else:
        path.write_bytes((root / "index" / f"{change}.npy").read_bytes())
    try:
        with loader(root, split="val", size=0, bank_mib=0, num_threads=1) as opened:
            found = list(opened)
            assert all(opened.dataset.key(row) for row in range(3))
            assert len(set(opened.dataset.split("val").tolist())) == 15
    except InputError as error:
        assert str(root) in str(error) or "do not decode" in str(error)  # noqa: PT017 - or none, and the right pixels
    else:
        assert same(found, expected) or not known
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("change", ["a shard more", "samples less", "no shared.tar", "a smaller tar"])
def test_an_index_that_leads_out_of_the_data_set_is_refused(
    copies: tuple[Path, Path, list[Batch]], change: str
) -> None:
    root, _, _ = copies
    manifest = Manifest.read(root)
    shards, small = manifest.shards, replace(manifest.shards[2], bytes=10_240)
    changed = {
        "a shard more": {"shards": [*shards, shards[0]]},
        "samples less": {"shards": shards[:-1], "samples": sum(shard.samples for shard in shards[:-1])},
        "no shared.tar": {"shared": None},
        "a smaller tar": {"shards": [*shards[:2], small, *shards[3:]]},
    }[change]
    with pytest.raises(InputError, match=str(root)):
        Dataset(root, replace(manifest, **changed))  # type: ignore[arg-type]  # each of its own type


def test_an_index_that_is_cut_short_meanwhile_does_no_harm(damaged: Path, dataset: Path) -> None:
    """Mapped, it would end the process."""
    with loader(damaged) as opened:
        for path in (damaged / "index").iterdir():
            os.truncate(path, 0)
        assert same(list(opened), epoch(dataset))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests that are computed from now on, by a process that knows nothing yet."""
    found: list[str] = []

    def digest(*arguments: Any) -> str:
        found.append(computed(*arguments))
        return found[-1]

    computed = digests.digest
    monkeypatch.setattr(digests, "digest", digest)
    monkeypatch.setattr(digests, "_found_right", set())
    return found


@pytest.mark.parametrize("name", ["shard-000003.tar", "shared.tar"])
@pytest.mark.parametrize("check", ["once", "always", "never"])
def test_a_changed_bit_of_a_tar_ends_the_epoch_unless_none_is_checked(
    damaged: Path, tmp_path: Path, name: str, check: str
) -> None:
    flip(damaged / name, 1000)
    options = {"check": check, "cache_dir": tmp_path / "cache"}
    if check == "never":
        assert len(epoch(damaged, **options)) == 8
    else:
        with pytest.raises(InputError, match=rf"{name}: its digest is not the one .*python -m shards verify"):
            epoch(damaged, **options)


def test_no_checkpoint_has_seen_a_damaged_shard(damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any) -> str:
        time.sleep(0.2)
        return digest(*arguments)

    digest = digests.digest
    monkeypatch.setattr(digests, "digest", slow)
    monkeypatch.setattr(digests, "_found_right", set())
    flip(damaged / "shared.tar", 1000)  # which is compared last
    with pytest.raises(InputError, match="its digest"):
        trained(damaged, tmp_path / "run", "--save-every", 1, "--check", "always")
    assert not list((tmp_path / "run").rglob("*.pt"))


def test_what_is_written_to_a_tar_between_two_epochs_is_found(damaged: Path, tmp_path: Path) -> None:
    with loader(damaged, check="once", cache_dir=tmp_path) as opened:
        list(opened)
        flip(damaged / "shard-000002.tar", 3000)
        with pytest.raises(InputError, match=r"shard-000002.tar: its digest"):
            list(opened)


def test_shards_that_were_exchanged_are_found(damaged: Path, tmp_path: Path) -> None:
    first, second = (damaged / f"shard-00000{number}.tar" for number in (1, 2))
    data = first.read_bytes(), second.read_bytes()
    longest = max(map(len, data))
    first.write_bytes(data[1].ljust(longest, b"\0"))
    second.write_bytes(data[0].ljust(longest, b"\0"))
    manifest = Manifest.read(damaged)
    shards = [
        replace(shard, bytes=longest) if number in (1, 2) else shard for number, shard in enumerate(manifest.shards)
    ]
    (damaged / "manifest.json").write_text(replace(manifest, shards=shards).to_json())
    with pytest.raises(InputError, match="its digest is not the one"):
        epoch(damaged, check="once", cache_dir=tmp_path)


def test_once_is_once_for_all_runs_and_again_for_what_is_written_to(
    damaged: Path, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(check: str, folder: str = "cache") -> int:
        monkeypatch.setattr(digests, "_found_right", set())  # another process
        hashed.clear()
        epoch(damaged, check=check, cache_dir=tmp_path / folder)
        return len(hashed)

    (tmp_path / "file").touch()
    assert [count("once"), count("once"), count("always"), count("never")] == [6, 0, 6, 0], (
        "one of the 7 has no sample of the split"
    )
    (damaged / "shared.tar").write_bytes((damaged / "shared.tar").read_bytes())
    assert [count("once"), count("once"), count("once", "file"), count("once", "file")] == [1, 0, 6, 6]
    (tmp_path / "cache" / "checked").write_bytes(bytes(range(256)))
    assert count("once") == 6
    monkeypatch.setattr(digests, "_MOST", 100)
    assert [count("once"), count("once")] == [6, 6]


def test_the_ranks_of_a_machine_compare_each_tar_once(
    dataset: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        epoch(dataset, rank=rank, world_size=2, check="always")
    assert sorted(hashed) == sorted(tar.sha256 for tar in Manifest.read(dataset).tars[1:])


def test_no_more_tars_are_open_than_the_process_may_have(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (12, 12))
    with loader(dataset, batch_size=64) as opened:
        assert len(list(opened)) == 2
        assert len(opened._reader._opened) == 3


def test_a_loader_in_a_forked_process_says_where_it_belongs(dataset: Path) -> None:
    with loader(dataset) as opened:
        begun = iter(opened)
        next(begun)
        with warnings.catch_warnings(action="ignore"):  # of Python 3.12, that threads are not copied
            child = os.fork()
        if not child:
            said = 0
            uses: list[Callable[[], object]] = [lambda: next(begun), lambda: iter(opened), lambda: opened.samples([0])]
            for use in uses:
                try:
                    use()
                except RuntimeError as error:
                    said += "Make a loader in the process that uses it" in str(error)
            os._exit(said)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


STRANGE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers())


@given(st.dictionaries(st.sampled_from(["epoch", "seen", "decode", "seed", "data", "shuffle"]), STRANGE) | STRANGE)
def test_a_place_of_any_kind_is_taken_or_refused(opened_once: Any, state: Any) -> None:
    whole = opened_once.state_dict()
    try:
        opened_once.load_state_dict(whole | state if isinstance(state, dict) else state)
    except InputError as error:
        assert "the saved place is" in str(error)  # noqa: PT017 - or none, and it is taken
    else:
        assert 0 <= opened_once._step <= len(opened_once)
        assert opened_once.state_dict() == whole | {name: state[name] for name in ("epoch", "seen") if name in state}


@pytest.fixture(scope="module")
def opened_once(dataset: Path) -> Any:
    with loader(dataset) as opened:
        yield opened
