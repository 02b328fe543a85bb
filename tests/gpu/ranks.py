"""What each rank does in test_all_ranks_agree: DDP steps, a distributed evaluation, and a comparison of the weights."""

import itertools
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from bench.sections import DRY, FULL
from evaluate import evaluate
from model.unet import UNetConfig
from pipeline.loader import Loader, LoaderConfig
from train import TrainConfig, autocast_dtype, distributed, optimise, start


def main(data: Path, wanted: str) -> None:
    scale = DRY if wanted == DRY.device else FULL
    batch = 128 if scale.device == "cuda" else 16
    read = LoaderConfig(data=data, size=scale.size, batch_size=batch, decode=scale.decode, num_threads=2)
    config = TrainConfig(loader=read, unet=UNetConfig(width=scale.width, levels=3), wandb="off")
    with distributed(wanted) as ranks:
        training = start(config, ranks)
        network = DistributedDataParallel(training.model)
        with training.loader as loader:
            for batch_of_rank in itertools.islice(loader, 8):
                optimise(training, network, batch_of_rank, config)
        weights = torch.cat([parameter.detach().flatten() for parameter in training.model.parameters()])
        others = [torch.empty_like(weights) for _ in range(ranks.world_size)]
        dist.all_gather(others, weights)
        held_out = LoaderConfig(**{**vars(read), "split": "val", "shuffle": False})
        with Loader(held_out, rank=ranks.rank, world_size=ranks.world_size, device=ranks.device) as validation:
            metrics, _ = evaluate(training.model, validation, autocast_dtype(config.precision, ranks.device))
            measured = torch.tensor(validation.stats.samples, device=ranks.device)
        dist.all_reduce(measured)
        if ranks.rank == 0:
            apart = max(float((other - weights).abs().max()) for other in others)
            said = {"world": ranks.world_size, "backend": dist.get_backend(), "weights_apart": apart}
            counts = {"samples_measured": int(measured), "samples_in_split": validation.order.samples}
            print(json.dumps(said | counts | {"mask_iou": metrics["mask_iou"]}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
