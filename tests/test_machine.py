"""The cores that a process may use: by its affinity, and by the quota of its control group."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.machine import cgroup_quotas, cpu_count

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="macOS binds no process to cores")
def test_a_process_bound_to_one_core_has_one() -> None:
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    program += "from shards.machine import cpu_count; print(cpu_count())"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).stdout == b"1\n"
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("told", "cores"),
    [("max 100000", []), ("150000 100000", [2]), ("100000 100000", [1]), ("1000 100000", [1]), ("800000 200000", [4])],
)
def test_a_quota_is_rounded_up(tmp_path: Path, told: str, cores: list[int]) -> None:
    (tmp_path / "cpu.max").write_text(f"{told}\n")
    (tmp_path / "membership").write_text("0::/\n")
    assert cgroup_quotas(tmp_path, tmp_path / "membership") == cores
    assert cgroup_quotas(tmp_path, tmp_path / "no such file") == cores


def test_the_groups_around_a_process_count_too(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "cpu.max").write_text("300000 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("200000 100000\n")
    (tmp_path / "membership").write_text("4:memory:/x\n0::/a/b\n")
    assert cgroup_quotas(tmp_path, tmp_path / "membership") == [3, 2]
    (tmp_path / "membership").write_text("4:memory:/x\n0::/of/the/host\n")  # from within a container
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert cgroup_quotas(tmp_path, tmp_path / "membership") == [1]
    assert cgroup_quotas(tmp_path / "none", tmp_path / "membership") == []
