"""What each rank does in test_all_ranks_agree: DDP steps, a distributed evaluation, and a comparison of the weights."""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from bench.gpu.scale import DRY, FULL
from evaluate import evaluate
from pipeline.loader import Loader, LoaderConfig
from ranks import Ranks, distributed
from train import TrainConfig, autocast_dtype, make_objective, optimise, start


def agreement(config: TrainConfig, ranks: Ranks) -> dict[str, Any]:
    """Train, evaluate and compare. In a function, at whose end DDP ends: if it outlives its process group it may hang.

    With PyTorch 2.13 every other run did: DDP, as Python ends, waits for gloo's thread, and that for Python's lock.
    """
    training = start(config, ranks)
    objective = make_objective(training, config, ranks)
    if ranks.world_size == 1:  # so that a machine with one GPU shows whether the two get along
        objective = DistributedDataParallel(objective)
    with training.loader as loader:
        for batch in itertools.islice(loader, 8):
            optimise(training, objective, batch, config)
    weights = torch.cat([parameter.detach().flatten() for parameter in training.model.parameters()])
    others = [torch.empty_like(weights) for _ in range(ranks.world_size)]
    dist.all_gather(others, weights)
    apart = max(float((other - weights).abs().max()) for other in others)
    held_out = replace(config.loader, split="val", shuffle=False)
    with Loader(held_out, rank=ranks.rank, world_size=ranks.world_size, device=ranks.device) as validation:
        metrics, _ = evaluate(training.model, validation, autocast_dtype(config.precision, ranks.device))
        measured = torch.tensor(validation.stats.samples, device=ranks.device)
    dist.all_reduce(measured)
    found = {"world": ranks.world_size, "backend": dist.get_backend(), "weights_apart": apart}
    found |= {"samples_measured": int(measured), "samples_in_split": validation.order.samples}
    return found | {"mask_iou": metrics["mask_iou"]}


def main(data: Path, wanted: str) -> None:
    scale = DRY if wanted == DRY.device.type else FULL
    read = LoaderConfig(data=data, size=scale.size, batch_size=scale.test_batch, decode=scale.decode, num_threads=2)
    with distributed(wanted) as ranks:
        found = agreement(TrainConfig(loader=read, unet=scale.unet, wandb="off"), ranks)
        if ranks.rank == 0:
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
