"""The processes of a run: their ranks, the wish to stop them, and the lock that keeps others out."""

import fcntl
import logging
import os
import re
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # stub lacks it
from torch.distributed.rendezvous import rendezvous

from checkpoint import select_device
from shards.errors import InputError
from shards.machine import cpu_count

PATIENCE = timedelta(minutes=10)
"""how long ranks wait for one that does not answer; one that has ended is noticed at once"""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that torchrun started; alone without it."""

    rank: int
    world_size: int
    device: torch.device
    group: dist.ProcessGroup | None = None
    """of gloo, on which the ranks tell each other what is no part of the computation; None if there is but one"""

    def agree(self, decides: Mapping[str, object]) -> None:
        """Compare what decides how several ranks go on, by name. Raises InputError on all if it is not the same."""
        every: list[Any] = [None] * self.world_size
        dist.all_gather_object(every, {name: str(value) for name, value in decides.items()}, self.group)
        _refuse_differences(every)


def _refuse_differences(every: Sequence[Mapping[str, str]]) -> None:
    """Raise InputError if what the ranks say, one after the other, is not the same."""
    told = []
    for name in every[0]:
        found = dict[str, list[str]]()
        for rank, one in enumerate(every):
            found.setdefault(one[name], []).append(str(rank))
        if len(found) > 1:
            told.append(f"{name}: " + ", ".join(f"{value} on rank {' and '.join(on)}" for value, on in found.items()))
    if told:
        raise InputError(f"the ranks are not to do the same ({'; '.join(told)}). Give all of them the same.")


@contextmanager
def distributed(wanted: str) -> Iterator[Ranks]:
    """Join the processes of torchrun or srun; leave them at the end.

    Raises InputError if there is no such device, and wherever one of the others turns out to be gone.
    """
    _read_slurm()
    use_cores()
    device = select_device(wanted)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield Ranks(0, 1, device)
        return
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=PATIENCE))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":  # torchrun's store keeps the addresses of those that it restarts
            store = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
        store.set(f"device of {rank}", device.type)
        _refuse_differences([{"--device": store.get(f"device of {one}").decode()} for one in range(world_size)])
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=PATIENCE)
        yield Ranks(rank, world_size, device, dist.new_group(backend="gloo", timeout=PATIENCE))
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise InputError(
            f"rank {os.environ['RANK']}: another rank has ended, or has not answered for {PATIENCE.seconds // 60} "
            "minutes. Its own last words say why; the same command goes on from the last checkpoint."
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def use_cores() -> None:
    """Have PyTorch use the cores that this process may use, divided among its ranks here, if the user says nothing.

    By itself it does not ask for the quota of a container.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _read_slurm() -> None:
    """Have srun's variables say what torchrun's would, where srun alone has started several processes."""
    slurm, ranks = os.environ, int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if ranks == 1 or "RANK" in slurm:
        return
    # node[07-12,20] or a,b: the first node has rank 0. Of 4(x2),3 tasks a node, all have as many but perhaps the last.
    first = re.sub(r"\[(\w+).*|,.*", r"\1", slurm["SLURM_STEP_NODELIST"])
    here = re.findall(r"\d+", slurm["SLURM_STEP_TASKS_PER_NODE"])[0]
    port = 20_000 + (int(slurm["SLURM_JOB_ID"]) * 7 + int(slurm["SLURM_STEP_ID"])) % 10_000
    named = {"RANK": slurm["SLURM_PROCID"], "WORLD_SIZE": str(ranks), "LOCAL_RANK": slurm["SLURM_LOCALID"]}
    os.environ |= named | {"LOCAL_WORLD_SIZE": here, "MASTER_ADDR": first, "MASTER_PORT": str(port)}


class StopRequest(AbstractContextManager["StopRequest"]):
    """The wish to stop, by SIGTERM, SIGUSR1 (of SLURM before a job's time is over) or Ctrl-C.

    A signal may reach the ranks between different steps, or only one of them. A second Ctrl-C does not wait.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._came, self._told, self._telling = 0, torch.zeros(1, dtype=torch.int32), None
        self._group = ranks.group
        self._before = {one: signal.signal(one, self._note) for one in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}

    def _note(self, number: int, _: object) -> None:
        if number == self._came == signal.SIGINT:
            raise KeyboardInterrupt
        self._came = number

    def agreed(self) -> int:
        """Return the number of a signal that has come, the same on all ranks; 0 if none has. To be called each step."""
        if not self._group:
            return self._came
        if self._telling:
            self._telling.wait()
        found = int(self._told)
        self._told.fill_(self._came)  # which travels while the next step is computed, so that nobody waits
        self._telling = dist.all_reduce(self._told, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return found

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._telling and not (kind and issubclass(kind, Exception)):
            self._telling.wait()


@contextmanager
def only_process(run: Path) -> Iterator[None]:
    """Hold the lock of a run's folder. Raises InputError if another process does."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(f"{run}: {file.read()} is training there. Wait for it, or name another --out.") from None
        except OSError as error:
            logging.warning(
                "%s: this file system has no locks (%s); see that no other process trains there", run, error
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
