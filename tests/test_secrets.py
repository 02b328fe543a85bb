"""A password or token in a URL is used, and never told: neither on the terminal nor in a file."""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st
from servers import Server, http_server

import evaluate
import train
from pipeline.loader import Loader, LoaderConfig
from shards import commands
from shards.errors import InputError, masked, report_errors
from shards.format import storage
from shards.format.manifest import Manifest
from shards.format.storage import RemoteFolder, folder_at

ROOT = Path(__file__).parent.parent
SECRET = "sesame"
SMALL = ["--batch-size", "8", "--size", "16", "--width", "4", "--levels", "2", "--num-threads", "1", "--epochs", "1"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://me:sesame@host/x?list", "https://me:***@host/x?list"),
        ("s3://KEY:ses/ame+/=@bucket/x", "s3://KEY:***@bucket/x"),
        ("ftp://me:ses@me@host: not found", "ftp://me:***@host: not found"),
        ("https://sesame@host/x", "https://***@host/x"),
        ("simplecache::http://:1234@host:80", "simplecache::http://:***@host:80"),
        ("no 'http:/me:sesame@host/x' here", "no 'http:/me:***@host/x' here"),
        ("https://h/x?Signature=a%2Fb=&v=1: 403. Why?", "https://h/x?Signature=***&v=***: 403. Why?"),
        ("(url='https://h/x?sig=sesame')", "(url='https://h/x?sig=***')"),
    ],
)
def test_passwords_and_the_values_of_queries_are_masked(text: str, told: str) -> None:
    assert masked(text) == told
    assert masked(told) == told


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/data: not found (me@host, me:sesame@host)",
        "http://host:8080/of@ours",
        "http://[::1]:80/of@ours",
        "http://127.0.0.1:9: Cannot connect to host 127.0.0.1:9 ssl:default, me@host",
        "sftp://me@host/x and abfs://container@account.dfs.core.windows.net/x",
        "/data/of:ours@home?split=train&size=64",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


@given(st.text())
def test_a_masked_text_is_masked(text: str) -> None:
    once = masked(f"https://me:{text}@host/?token={text}")
    assert masked(once) == once
    assert masked(text.replace(":", "")) == text.replace(":", "")


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the main function of a command here with these arguments; returns the exit code and what was printed."""

    def command(main: Callable[[], object], *arguments: str) -> tuple[int, str]:
        code = 0
        with monkeypatch.context() as patch:
            for name in ("stdout", "stderr"):  # which are back afterwards
                patch.setattr(sys, name, getattr(sys, name))
            patch.setattr(sys, "argv", ["command", *arguments])
            try:
                with report_errors():
                    main()
            except SystemExit as end:
                code = int(end.code or 0)
        return code, "".join(capfd.readouterr())

    return command


@pytest.fixture
def guarded(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that asks for the password."""
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)
    with http_server(dataset, f"me:{SECRET}") as server:
        yield server


def test_a_run_uses_a_password_and_never_tells_it(
    guarded: Server, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "14")  # where a line ends within the password
    run = tmp_path / "run"
    guarded.fail("shard-000001.tar", "503")
    begin = [sys.executable, str(ROOT / "train.py"), "--data", guarded.url, "--out", str(run), *SMALL]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    first = subprocess.run(begin, env=kept | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "me:***@" in first.stderr.partition("503; try 2")[0]
    told = first.stdout + first.stderr
    resume, best = ("--resume", str(run), "--epochs", "2", "--wandb", "off"), str(run / "checkpoints" / "best.pt")
    for main, *arguments in ((train.main, *resume), (measure, best)):
        for code, more, words in ((2, [], "Give the whole URL again"), (0, ["--data", guarded.url], "")):
            ended, said = command(main, *arguments, *more)
            assert (ended, words in said) == (code, True), said
            told += said
    assert "http://me:***@127.0.0.1" in "".join(said.split()), "the title of the table"
    assert json.loads((run / "config.json").read_text())["loader"]["data"] == masked(guarded.url)
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
    assert SECRET not in "".join(told.split())
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def measure() -> None:
    evaluate.main(tyro.cli(evaluate.EvaluateConfig))


@pytest.mark.parametrize(
    ("main", "line", "code"),
    [
        (train.main, "{url} {url}", 2),
        (train.main, "--data {away}", 2),
        (commands.main, "show {away}", 2),
        (commands.main, "show {url} --samples {url}", 2),
        (commands.main, "convert {url} {url}", 2),
        (commands.main, "convert {folders} {away}", 2),
        (commands.main, "merge {url}", 0),
    ],
)
def test_no_command_tells_a_password(
    main: Callable[[], object], line: str, code: int, guarded: Server, folders: Path, command: Command, tmp_path: Path
) -> None:
    away = guarded.url.rpartition(":")[0] + ":9"
    out = ["--out", str(tmp_path)] if main is train.main else []
    ended, said = command(main, *line.format(url=guarded.url, away=away, folders=folders).split(), *out)
    assert (ended, "me:***@127.0.0.1" in said, SECRET in said) == (code, True, False), said


def test_what_libraries_print_is_masked_too() -> None:
    program = f"""if True:
        import logging, warnings
        from shards.errors import report_errors
        with report_errors():
            logging.warning("http://me:{SECRET}@warned")
            warnings.warn("http://me:{SECRET}@old", stacklevel=1)
            raise RuntimeError("http://me:{SECRET}@broken")
    """
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr.count("http://me:***@") == 3, ended.stderr
    assert ended.stderr.endswith("RuntimeError: http://me:***@broken\n")
    assert ended.returncode == 1


def test_an_error_in_a_program_of_ones_own_tells_no_password(guarded: Server, tmp_path: Path) -> None:
    config = LoaderConfig(data=guarded.url, cache_dir=tmp_path)
    tried: dict[str, Callable[[], object]] = {
        "not found": lambda: folder_at(guarded.url).read("no-such-file"),
        "Check the URL, and": lambda: RemoteFolder(guarded.url).download("no-such-file", tmp_path / "file"),
        "cannot be divided": lambda: Loader(config, world_size=1000),
        "hold no password": lambda: Manifest.read(folder_at(f"s3://KEY:{SECRET}@bucket/of/ours")),
        "not known": lambda: Loader(replace(config, data=f"gibberish://me:{SECRET}@host")),
    }
    for words, one in tried.items():
        with pytest.raises(InputError, match=words) as error:
            one()
        assert f"{SECRET}@" not in "".join(traceback.format_exception(error.value))
