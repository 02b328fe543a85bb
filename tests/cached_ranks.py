"""One of two ranks that torchrun starts: an epoch to fill the cache they share, and one from it.

torchrun ... cached_ranks.py DATA
"""

import os
import sys

import torch.distributed as dist

from pipeline.loader import Loader, LoaderConfig


def main() -> None:
    dist.init_process_group("gloo")
    config = LoaderConfig(data=sys.argv[1], size=32, batch_size=16, decode="portable", num_threads=1, cache="host")
    with Loader(config, rank=dist.get_rank(), world_size=dist.get_world_size()) as loader:
        counts = []
        for _ in range(2):
            before = loader.stats
            seen = sum(len(batch.index) for batch in loader)
            dist.barrier()
            counts.append(seen if loader.stats.since(before).spent["decode"] else 0)
        os.write(1, f"rank {os.environ['RANK']}: decoded {counts[0]}, then {counts[1]}\n".encode())  # in one piece
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
