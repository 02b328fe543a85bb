"""Stage first: whether all of it works on this GPU, and how fast training, decoding and loading are by themselves."""

import ctypes
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench import measure
from bench.gpu.rates import Result, attempt, composed, data_at, loader_rate
from bench.gpu.scale import Scale
from pipeline.decode import DaliDecoder
from pipeline.headers import Headers
from pipeline.loader import LoaderConfig
from pipeline.portable import Components
from pipeline.reader import Encoded, Reader, local_tars
from shards.format.dataset import Dataset
from shards.format.manifest import StoredComponent
from shards.machine import cpu_count

DAMAGES = ("truncated", "bits flipped", "zeroed")
BAD, LEVELS = 7, 4.0
"""The image of a batch that is damaged; and how far, in levels of 255, decoding another one twice may be apart: which
unit of the GPU decodes it, and how, may change."""


class Some(NamedTuple):
    """A batch of a data set as it is stored."""

    components: Components
    image_size: tuple[int, int]
    encoded: Encoded

    @classmethod
    def of(cls, data: Path, samples: int) -> "Some":
        """Read the first samples of the training split, without what they share."""
        dataset = Dataset.open(data)
        components = {name: one for name, one in dataset.manifest.components.items() if not one.shared}
        places = {name: dataset.locate(name, dataset.split("train")[:samples]) for name in components}
        return cls(components, dataset.manifest.image_size, Reader(dataset, local_tars(dataset)).read(places))

    def decoder(self, device: torch.device, hw_decoder_load: float) -> DaliDecoder:
        on_gpu = device if device.type == "cuda" else None
        return DaliDecoder(self.components, len(self.encoded.rows), self.image_size, on_gpu, hw_decoder_load)


def machine(scale: Scale, work: Path) -> Iterator[Result]:
    yield attempt({}, _facts)
    yield attempt({}, _decoders_built, scale)


def _facts() -> Result:
    from nvidia import dali

    found = {"machine": measure.machine("numpy"), "cores": cpu_count(), "torch": torch.__version__}
    found |= {"dali": dali.__version__, "cuda": torch.version.cuda, "libnvcuvid": _loading("libnvcuvid.so.1")}
    found |= {"compiler": shutil.which("cc") or shutil.which("gcc")}  # without it torch.compile does nothing
    found |= {"gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]}
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.memory", "--format=csv,noheader"]
        found["driver, memory clock"] = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    return found


def _loading(library: str) -> str:
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return "loads"


def _decoders_built(scale: Scale) -> Result:
    """Build decoders where nvImageCodec tells all it does; return the seconds of each, and what it says of engines."""
    program = f"from bench.gpu.first import build_decoders; build_decoders({scale.device.type!r}, {scale.stored[0]})"
    command, settings = [sys.executable, "-c", program], os.environ | {"DALI_NVIMGCODEC_LOG_LEVEL": "3"}
    ended = subprocess.run(command, cwd=measure.ROOT, env=settings, capture_output=True, text=True)
    log = ended.stderr + ended.stdout
    print(log, flush=True)
    built = re.findall(r"^built in ([\d.]+) s", log, re.MULTILINE)
    if ended.returncode:
        raise RuntimeError(f"exit code {ended.returncode} after {len(built)} decoders: {log[-200:]}")
    return {"build_seconds": list(map(float, built)), "engines": re.findall(r".*(?:num_hw_engines|HW decoder).*", log)}


def build_decoders(device: str, pixels: int) -> None:
    """Build two, as what the first one does includes loading DALI and starting CUDA."""
    components = {name: StoredComponent(extension="jpg", channels=n) for name, n in (("fg_bg", 3), ("mask", 1))}
    for _ in range(2):
        begin = time.perf_counter()
        DaliDecoder(components, 256, (pixels, pixels), torch.device(device, 0) if device == "cuda" else None, 0.9)
        print(f"\nbuilt in {time.perf_counter() - begin:.2f} s", flush=True)


def data(scale: Scale, work: Path) -> Iterator[Result]:
    for pixels in scale.stored:
        about = {"sources": scale.sources, "samples": scale.samples, "pixels": pixels}
        yield attempt(about, composed, work, scale.sources, scale.samples, pixels)


def damaged(scale: Scale, work: Path) -> Iterator[Result]:
    """Decode a batch with a damaged JPEG in it; each kind of damage in a process of its own, because it may crash."""
    with ExitStack() as pools:
        begun = {}
        for kind in DAMAGES:
            pool = pools.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
            some = data_at(work, scale.stored[0])
            begun[pool.submit(_decode_damaged, some, scale.device, kind)] = kind
        for future in as_completed(begun):
            yield attempt({"damage": begun[future]}, future.result)


def _decode_damaged(data: Path, device: torch.device, kind: str) -> Result:
    """Tell how far the images of fg_bg are from those of an undamaged batch: the bad one, the others, all afterwards.

    The mean difference of an image, of several the greatest, in levels of 255.
    """
    some = Some.of(data, 16)
    decoder = some.decoder(device, 0.9)
    whole, found, harm = decoder.decode(some.encoded)["fg_bg"].clone(), Result(), 0.0
    encoded = _with_damage(some.encoded, kind)
    try:
        Headers(some.components, some.image_size).check(encoded)  # as the loader does
        apart = _apart(decoder.decode(encoded)["fg_bg"], whole)
        found["bad_image"] = apart.pop(BAD)
        harm = found["others"] = max(apart)
    except ValueError as error:
        found["raised"] = str(error)[-200:]
    found["afterwards"] = max(_apart(decoder.decode(some.encoded)["fg_bg"], whole))
    if max(harm, found["afterwards"]) > LEVELS:
        found["error"] = "a damaged image costs others too"
    return found


def _apart(images: Tensor, others: Tensor) -> list[float]:
    return list((images.float() - others.float()).abs().mean((1, 2, 3)).tolist())


def _with_damage(encoded: Encoded, kind: str) -> Encoded:
    """Return a copy of a batch in which one image is damaged."""
    rows, sizes = encoded.rows.copy(), encoded.size["fg_bg"].copy()
    begin = encoded.begin["fg_bg"][BAD]
    image = rows[BAD, begin : begin + sizes[BAD]]
    if kind == "truncated":
        sizes[BAD] //= 2
    elif kind == "zeroed":
        image[:] = 0
    else:
        image[600::997] ^= 0x10
    return encoded._replace(rows=rows, size=encoded.size | {"fg_bg": sizes})


def tests(scale: Scale, work: Path) -> Iterator[Result]:
    """Run tests/gpu. Its conftest.py adds the outcome of each to the rows of this part."""
    settings = {"SLUICE_DATA": str(data_at(work, scale.stored[0])), "SLUICE_DEVICE": scale.device.type}
    settings |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # none is needed
    options = ["--confcutdir=tests/gpu", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "tests/gpu", *options]
    code = subprocess.run(command, cwd=measure.ROOT, env=os.environ | settings).returncode
    ended: Result = {"outcome": "failed", "error": f"pytest ended with exit code {code}"} if code else {}
    yield {"test": "all of tests/gpu", "outcome": "passed"} | ended


def decode(scale: Scale, work: Path) -> Iterator[Result]:
    """Decode one batch again and again, on several threads, each with a decoder and a stream of its own."""
    stored = {pixels: Some.of(data_at(work, pixels), scale.batch) for pixels in scale.stored}
    most, *fewer = scale.threads
    for ways in ([(load, most) for load in (1.0, 0.9, 0.5, 0.0)], [(1.0, threads) for threads in fewer]):
        for (pixels, some), (load, threads) in itertools.product(stored.items(), ways):
            way = {"stored": pixels, "batch_size": scale.batch, "hw_decoder_load": load, "threads": threads}
            yield attempt(way, _decoding_rate, some, scale.device, load, threads, scale.seconds)


def _decoding_rate(some: Some, device: torch.device, load: float, threads: int, seconds: float) -> Result:
    def rate(decoder: DaliDecoder) -> float:
        """Return the samples a second of one thread."""
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # stub lacks it
        with torch.cuda.stream(stream) if stream else nullcontext():
            begin, count = time.perf_counter(), 0
            while (spent := time.perf_counter() - begin) < seconds:
                decoder.decode(some.encoded)
                count += len(some.encoded.rows)
        return count / spent

    moments, decoders = [time.perf_counter()], [some.decoder(device, load) for _ in range(threads)]
    for decoder in decoders:
        decoder.decode(some.encoded)
    moments.append(time.perf_counter())
    cpu = time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        rates = list(pool.map(rate, decoders))
    cpu, moments = time.process_time() - cpu, [*moments, time.perf_counter()]
    built, spent = moments[1] - moments[0], moments[2] - moments[1]
    return {"samples_per_second": sum(rates), "cores_busy": cpu / spent, "build_seconds": built}


def loader(scale: Scale, work: Path) -> Iterator[Result]:
    """Take batches from the loader while nobody trains."""
    decoders = dict.fromkeys((scale.decode, "cpu", "portable"))
    for decode, pixels, size in itertools.product(decoders, scale.stored, scale.batches[:2]):
        config = LoaderConfig(data=data_at(work, pixels), size=scale.size, batch_size=size, decode=decode)
        way = {"stored": pixels, "batch_size": size, "decode": decode}
        yield attempt(way, loader_rate, config, scale.device, scale.seconds)
