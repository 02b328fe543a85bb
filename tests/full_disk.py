"""What test_a_full_disk_is_told does on a small disk: go on with a run while there is room for so many KiB."""

import json
import os
import shutil
import sys
from pathlib import Path

import torch

from checkpoint import load
from shards.errors import report_errors
from train import main


def go_on(run: Path, disk: Path, free: int) -> tuple[object, bool]:
    """Returns the exit code, and whether there is a checkpoint to go on from."""
    shutil.rmtree(disk / "run", ignore_errors=True)
    (disk / "filler").unlink(missing_ok=True)
    shutil.copytree(run, disk / "run")
    status = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - (free << 10))))
    sys.argv = ["train.py", "--resume", str(disk / "run"), "--epochs", "5"]
    try:
        with report_errors():
            code: object = main()
    except SystemExit as ended:
        code = ended.code
    return code, load(disk / "run" / "checkpoints" / "last.pt", torch.device("cpu"))["step"] > 0


if __name__ == "__main__":
    given, small, *sizes = sys.argv[1:]
    print(json.dumps([go_on(Path(given), Path(small), int(size)) for size in sizes]))
