"""Stage second: a training as it is meant to be, beside that of 2020 and beside peers that decode on a GPU."""

# mypy: disable-error-code="import-not-found"

import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.gpu.rates import Result, attempt, composed, data_at, loader_rate, memory_share
from bench.gpu.scale import Scale
from bench.measure import ROOT, count_for, drawn_data, endless, shards_command
from bench.race.formats import SHAPES, Paths, members, pillow, read
from model.unet import UNetConfig
from pipeline.loader import Loader, LoaderConfig
from shards.format.dataset import Dataset
from shards.machine import cpu_count

REACHED = 0.88
"""The mask IoU that 2020 reached."""
LEARNING_RATE = 6e-3
"""Three times the default, at 32 times the default batch."""
EPOCH = re.compile(
    r"epoch (?P<epoch>\d+): mask IoU (?P<mask_iou>\S+), depth RMSE (?P<depth_rmse>\S+), "
    r"(?P<samples_per_second>\S+) samples/s; .* (?P<waited_percent>\S+)% of the time waited"
)
GPU_USE = ("jpeg", "gpu", "memory")


def data(scale: Scale, work: Path) -> Iterator[Result]:
    for pixels, samples in zip(reversed(scale.stored), (scale.whole, scale.peers), strict=True):
        yield attempt({"samples": samples, "pixels": pixels}, composed, work, scale.many_sources, samples, pixels)


def run(scale: Scale, work: Path) -> Iterator[Result]:
    """Run train.py as its user does: a row an epoch, as soon as its validation is there, and one for the whole."""
    place, standard = data_at(work, scale.stored[1]), vars(UNetConfig())
    options = {"data": place, "out": work / "run", "size": scale.size, "batch-size": scale.batch, "cache": scale.cache}
    options |= {"epochs": scale.epochs, "learning-rate": LEARNING_RATE, "wandb": "off"}
    options |= {name: value for name, value in vars(scale.unet).items() if value != standard[name]}
    command = ["train.py", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    samples, rows, said = Dataset.open(place).manifest.splits["train"], list[Result](), list[str]()
    begin = time.perf_counter()
    with subprocess.Popen([sys.executable, "-u", *command], cwd=ROOT, **both) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if not (found := EPOCH.match(line)):
                said.append(line.strip())
                continue
            row: Result = {name: float(value.replace(",", "")) for name, value in found.groupdict().items()}
            row |= {"seconds": samples / row["samples_per_second"], "since_start": time.perf_counter() - begin}
            rows.append(row | memory_share(row["samples_per_second"], scale.device))
            yield rows[-1]
    if process.returncode:
        raise RuntimeError(f"train.py ended with exit code {process.returncode}: {said[-1:]}")
    reached = next((row["since_start"] for row in rows if row["mask_iou"] >= REACHED), None)
    whole = {"command": " ".join(command), "said": said, "samples": samples, "seconds": time.perf_counter() - begin}
    whole |= {f"seconds_to_mask_iou_{REACHED}": reached, "first_epoch_seconds": rows[0]["seconds"]}
    yield whole | {"cached_epoch_seconds": statistics.median(row["seconds"] for row in rows[1:])}


def _opened(samples: list[Paths]) -> dict[str, Tensor]:
    """Return a batch of images, uint8 (N, C, H, W), decoded and resized by Pillow."""
    decoded = [pillow(read(paths)) for paths in samples]
    stacked = {name: torch.stack([torch.from_numpy(one[name]) for one in decoded]) for name in SHAPES}
    return {name: images.view(*images.shape[:3], -1).permute(0, 3, 1, 2) for name, images in stacked.items()}


def _exported(data: Path, out: Path, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Write a data set's images as files, and load these by PyTorch's DataLoader, with a worker a core."""
    from torch.utils.data import DataLoader

    subprocess.run(shards_command("export", data, out), cwd=ROOT, check=True)
    files: Any = members(out)
    kept: dict[str, Any] = {"num_workers": cpu_count(), "persistent_workers": True, "drop_last": True}
    return endless(DataLoader(files, batch_size, shuffle=True, collate_fn=_opened, **kept))


def seed(scale: Scale, work: Path) -> Iterator[Result]:
    """Train the network of 2020 as then, on the same figures in the same rooms, in what PyTorch takes for float32."""
    from model.losses import depth_loss, mask_loss  # not at the top: they import much
    from model.seed import SeedNet

    sources = {"figures": scale.many_sources, "rooms": scale.many_sources}
    few = drawn_data(work / "seed", **sources, samples=scale.exported, size=scale.stored[1])
    batches = _exported(few.root, work / "folders", scale.seed_batch)
    model, on_mask, on_depth = SeedNet().to(scale.device), mask_loss("l1"), depth_loss("2*l1")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-5)
    waited = list[float]()

    def step() -> int:
        begin = time.perf_counter()
        loaded = next(batches)
        waited.append(time.perf_counter() - begin)
        batch = {name: images.to(scale.device) for name, images in loaded.items()}
        prediction = model(batch["fg_bg"], batch["bg"])
        loss = on_mask(prediction, batch["mask"]) + on_depth(prediction, batch["depth"])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        loss.item()
        return scale.seed_batch

    rate = _rate(scale.seed_seconds, (step() for _ in itertools.count()))["samples_per_second"]
    found: Result = {"workers": cpu_count(), "samples_per_second": rate, "epoch_seconds": scale.whole / rate}
    found["waiting_share"] = statistics.median(waited) * rate / scale.seed_batch
    ours = [json.loads(line) for line in (work / "run.jsonl").read_text().splitlines()]
    cached = [row["samples_per_second"] for row in ours if row.get("epoch", 0) > 1]
    yield found | ({"times_slower_than_ours": statistics.median(cached) / rate} if cached else {})


def peers(scale: Scale, work: Path) -> Iterator[Result]:
    """Load samples (fg_bg, bg, mask, depth), or decode images of fg_bg where a peer is not a loader."""
    place, (most, fewer) = data_at(work, scale.stored[0]), scale.threads[:2]

    def ours(decode: Any) -> Result:
        config = LoaderConfig(data=place, size=scale.size, batch_size=scale.batch, decode=decode)
        return loader_rate(config, scale.device, scale.seconds)

    yield attempt({"peer": "DALI's reader", "threads": most}, _dali, scale, place, most)
    yield attempt({"peer": "ours", "decode": scale.decode}, _with_gpu_use, partial(ours, scale.decode))
    yield attempt({"peer": "ours", "decode": "cpu"}, ours, "cpu")
    yield attempt({"peer": "ours", "decode": "both"}, _both, scale, place)
    yield attempt({"peer": "DALI's reader", "threads": fewer}, _dali, scale, place, fewer)
    if scale.device.type == "cuda":
        yield attempt({"peer": "nvImageCodec"}, _nvimagecodec, scale, place)
        yield attempt({"peer": "torchvision"}, _torchvision, scale, place)
    yield attempt({"peer": "folders, Pillow, DataLoader"}, _folders, scale, place, work / "exported")


def _rate(seconds: float, lengths: Iterable[int], what: str = "samples") -> Result:
    """Return how many a second there are, of what `lengths` yields the numbers of."""
    steps = iter(lengths)
    count_for(seconds / 3, steps)
    count, moments = count_for(seconds, steps)
    return {f"{what}_per_second": count / (moments[-1] - moments[0])}


def _both(scale: Scale, place: Path) -> Result:
    """Decode on the GPU and on the host at once: two loaders with half of the threads each, their rates added."""
    config: Result = {"data": place, "size": scale.size, "batch_size": scale.batch}
    config["num_threads"] = max(1, cpu_count() // 2)
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        configs = (LoaderConfig(**config, decode=decode) for decode in (scale.decode, "cpu"))
        loaders = [stack.enter_context(Loader(one, device=scale.device)) for one in configs]
        lengths = [(len(batch.index) for batch in endless(loader)) for loader in loaders]
        rates = list(pool.map(partial(_rate, scale.seconds), lengths))
    return {"samples_per_second": sum(rate["samples_per_second"] for rate in rates)}


def _with_gpu_use(measure: Callable[[], Result]) -> Result:
    """Add how busy JPEG engines, cores and memory of the GPU were at most, in percent, as far as nvidia-smi tells."""
    query = f"--query-gpu={','.join(f'utilization.{name}' for name in GPU_USE)}"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits", "--loop-ms=200"]
    try:
        watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        return measure() | {"gpu_use": str(error)}
    try:
        measured = measure()
    finally:
        watch.terminate()
        said = watch.communicate()[0]
    try:
        columns = zip(*(map(int, line.split(",")) for line in said.splitlines()[:-1]), strict=True)
        return measured | {"gpu_use": dict(zip(GPU_USE, map(max, columns), strict=True))}
    except ValueError:
        return measured | {"gpu_use": said[-200:]}


def _dali(scale: Scale, place: Path, threads: int) -> Result:
    """Read, decode and resize in one pipeline, as DALI's documentation has it."""
    from nvidia.dali import Pipeline, fn, types

    shards = sorted(str(path) for path in place.glob("shard-*.tar"))
    stored: Result = {"paths": shards, "index_paths": [f"{path.removesuffix('.tar')}.idx" for path in shards]}
    device_id, how = (0, "mixed") if scale.device.type == "cuda" else (None, "cpu")
    with Pipeline(scale.batch, threads, device_id, prefetch_queue_depth=2) as pipeline:
        encoded: Any = fn.readers.webdataset(**stored, ext=[f"{name}.jpg" for name in SHAPES], random_shuffle=True)
        kinds = [types.RGB if channels == 3 else types.GRAY for channels in SHAPES.values()]
        both = zip(encoded, kinds, strict=True)
        images = (fn.decoders.image(one, output_type=kind, device=how) for one, kind in both)
        pipeline.set_outputs(*(fn.resize(one, size=[scale.size, scale.size]) for one in images))
    pipeline.build()
    return _rate(scale.seconds, (len(pipeline.run()[0]) for _ in itertools.count()))


def _jpegs(place: Path, count: int) -> list[bytes]:
    dataset = Dataset.open(place)
    return list(dataset.read(dataset.locate("fg_bg", dataset.split("train")[:count])))


def _nvimagecodec(scale: Scale, place: Path) -> Result:
    from nvidia import nvimgcodec

    decoder, encoded = nvimgcodec.Decoder(device_id=0), _jpegs(place, scale.batch)

    def decode() -> int:
        decoded = decoder.decode(encoded)
        torch.cuda.synchronize()
        return sum(image is not None for image in decoded)

    return _rate(scale.seconds, (decode() for _ in itertools.count()), "images")


def _torchvision(scale: Scale, place: Path) -> Result:
    from torchvision.io import decode_jpeg

    encoded = [torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in _jpegs(place, scale.batch)]

    def decode() -> int:
        decoded = decode_jpeg(encoded, device=scale.device)
        torch.cuda.synchronize()
        return len(decoded)

    return _rate(scale.seconds, (decode() for _ in itertools.count()), "images")


def _folders(scale: Scale, place: Path, out: Path) -> Result:
    batches = _exported(place, out, scale.seed_batch)
    return _rate(scale.seconds, (len(batch["mask"].to(scale.device)) for batch in batches))
