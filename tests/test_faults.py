"""The campaign: its quick attacks do no harm, and any kind of failure is seen where there is one."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attempts import harmless, in_every_way, unpreparable

from bench.faults import attack, data, fuzz
from bench.faults.__main__ import ATTACKS, table
from bench.faults.attack import REFUSED, WELL, Attack, FailureError, judged, run, told
from pipeline.batch import Batch
from pipeline.loader import Loader
from shards.format.manifest import Manifest

BY_NAME = {one.name: one for one in ATTACKS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacked")
    data.compose(folder)
    return folder


def ends(name: str, folder: Path, attempts: int, until: str = "") -> Counter[str]:
    """How attempts end, in this process; all of them, or those to the first that ends so."""
    found = Counter[str]()
    for number in range(1, attempts + 1):
        outcome = judged(BY_NAME[name], folder, number)
        found.update(outcome if isinstance(outcome, Counter) else [outcome[0]])
        if found[until]:
            break
    return found


@pytest.mark.parametrize(("name", "attempts"), [("manifest", 9), ("index", 9), ("images-5-portable-1", 2)])
def test_quick_attacks_end_well_or_are_refused(name: str, attempts: int, folder: Path) -> None:
    found = ends(name, folder, attempts)
    assert found[WELL] + found[REFUSED] == attempts, found
    assert found[WELL] > 0


def a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object) -> Manifest:
        raise KeyError("samples")

    monkeypatch.setattr(Manifest, "parse", parse)


def handing_over(monkeypatch: pytest.MonkeyPatch, changed: Callable[[Batch], Batch]) -> None:
    """All loaders hand over what `changed` makes of their batches."""
    before = Loader.__iter__
    monkeypatch.setattr(Loader, "__iter__", lambda loader: map(changed, before(loader)))


def other_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    handing_over(monkeypatch, lambda batch: batch._replace(fg_bg=torch.randint_like(batch.fg_bg, 256)))


def other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    handing_over(monkeypatch, lambda batch: batch._replace(index=batch.index + 10**6))


@pytest.mark.parametrize("name", ["manifest", "index", "images-5-portable-1"])
@pytest.mark.parametrize("breaks", [a_traceback, other_pixels, other_rows])
def test_an_attack_sees_what_is_broken(
    name: str, breaks: Callable[[pytest.MonkeyPatch], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.truth(folder / "data", "portable")  # remembered, of the whole
    breaks(monkeypatch)
    wanted = "traceback" if breaks is a_traceback else "wrong bytes"
    assert ends(name, folder, 20, until=wanted)[wanted] == 1


def test_what_ends_or_hangs_a_process_is_the_failure_of_one_attempt(tmp_path: Path) -> None:
    tried = Attack(
        name="every", what="it", prepare=harmless, attempt=in_every_way, attempts=11, long=11, seconds=3, memory=512
    )
    rows = list[int]()
    row = run(tried, tmp_path, 11, lambda row: rows.append(row.attempts))
    kinds = {one.attempt: (one.kind, one.doing) for one in row.failures}
    expected = ["signal", "hang", "traceback", "memory", "wrong bytes"]
    assert kinds == {i: (kind, f"way {i}") for i, kind in enumerate(expected, 1)} | {7: ("traceback", "way 7")}
    assert row.ended == Counter({WELL: 2 + 5, REFUSED: 2 + 7})
    assert "SIGSEGV" in row.failures[0].told or "Segmentation fault" in row.failures[0].told
    assert len(rows) == 11
    assert "| every | it | 22 | 7 | 9 | 1 | 1 | 2 | 1 | 1 |" in table([row])


def test_an_attack_that_cannot_be_prepared_is_a_row(tmp_path: Path) -> None:
    tried = Attack(name="un", what="it", prepare=unpreparable, attempt=in_every_way, attempts=9, long=9)
    row = run(tried, tmp_path, 9)
    assert [(one.kind, one.doing) for one in row.failures] == [("traceback", "preparing")]
    assert "no data set today" in row.failures[0].told


def test_a_program_is_judged_by_how_it_ends() -> None:
    assert told(0, "") == Counter({WELL: 1})
    assert told(2, "error: x: is damaged.\n") == Counter({REFUSED: 1})
    for code, said, kind in ((2, "Traceback ...\nerror: x", "traceback"), (1, "oh", "traceback"), (-11, "", "signal")):
        with pytest.raises(FailureError) as failure:
            told(code, said)
        assert failure.value.kind == kind


@pytest.mark.skipif("fuzz-tar" not in BY_NAME, reason="needs Atheris")
def test_an_input_that_ends_badly_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad is what needs more memory than it may; here that is any."""
    monkeypatch.setattr(fuzz, "CHUNK", 1000)
    attack.prepare(BY_NAME["fuzz-tar"], tmp_path)
    found = fuzz.fuzz("tar", tmp_path, 0)
    assert found[WELL] + found[REFUSED] >= 1000
    monkeypatch.setattr(fuzz, "CHUNK", 10**7)
    monkeypatch.setattr(fuzz, "MEMORY", 1)
    with pytest.raises(FailureError) as failure:
        fuzz.fuzz("tar", tmp_path, 1)
    assert failure.value.kind == "memory"
