"""Commands where a user has no name, no home, or one that cannot be written, as in many containers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import http_server

from pipeline.loader import Loader, LoaderConfig
from shards.errors import InputError

ROOT = Path(__file__).parent.parent
NAMELESS = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
SMALL = ["--batch-size", "8", "--size", "16", "--width", "4", "--levels", "2", "--num-threads", "1", "--epochs", "1"]


@pytest.mark.parametrize("home", [None, "/proc"], ids=["none", "read-only"])
def test_a_user_without_a_name_and_a_home_trains(home: str | None, dataset: Path, tmp_path: Path) -> None:
    """W&B, which keeps files at home, finds another place for them. A folder for temporary files is found too."""
    try:
        who = subprocess.run([*NAMELESS, "id", "-un"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no command unshare, which makes such a user")
    if "12345" not in who.stderr:
        pytest.skip(f"nobody may make such a user here: {who.stderr}")
    kept = {name: value for name, value in os.environ.items() if name != "HOME" and not name.startswith("WANDB")}
    own = {"TMPDIR": str(tmp_path / "nothing"), "OMP_NUM_THREADS": "1"}
    environment = kept | own | ({"HOME": home} if home else {})
    command = [*NAMELESS, sys.executable, str(ROOT / "train.py"), "--data", str(dataset), "--out", "run", *SMALL]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("folder", ["~no-such-user/shards", "/proc/shards", "/dev/null"])
def test_a_folder_for_shards_that_cannot_be_had_is_told(folder: str, dataset: Path) -> None:
    with http_server(dataset) as server, pytest.raises(InputError, match=f"^{folder}: shards cannot .* by --cache-dir"):
        Loader(LoaderConfig(data=server.url, cache_dir=Path(folder)))
    assert not server.asked
