"""What each way to store depth costs in bytes, and in depth.

    python -m bench.depth FOLDER

FOLDER holds measured depth maps: 16-bit PNG, millimetres, 0 where nothing was measured. Each is stored as Sluice stores
it, for the range that `compose` uses, and read back; the error is over the measured pixels of all maps.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from shards.format.depth import METRES, STORED, DepthFormat, depth_image, load_millimetres
from shards.format.images import encoded

WAYS: dict[DepthFormat, str] = {"jpg": "8-bit JPEG", "png": "8-bit PNG", "png16": "16-bit PNG"}


def costs(maps: list[NDArray[np.float32]], way: DepthFormat) -> tuple[float, float]:
    """Mean bytes of a map, metres (H, W), stored like that, and the RMSE in mm over the measured pixels of all."""
    extension, bits = STORED[way]
    sizes, squares = [], []
    for metres in maps:
        data = encoded(depth_image(metres, METRES, bits), extension, full_chroma=metres.shape[1] < 160)
        share = np.asarray(Image.open(io.BytesIO(data)), np.float64) / ((1 << bits) - 1)
        read = METRES.black + share * (METRES.white - METRES.black)
        sizes.append(len(data))
        squares.append((read - metres)[metres > 0] ** 2)
    return float(np.mean(sizes)), 1000 * float(np.concatenate(squares).mean()) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.depth", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="depth maps: 16-bit PNG, millimetres")
    paths = sorted(parser.parse_args().folder.glob("*.png"))
    maps = [np.asarray(load_millimetres(path), np.float32) / np.float32(1000) for path in paths]
    table = Table("depth stored as", "bytes a map", "RMSE, mm", title=f"{len(maps)} measured maps, range {METRES}")
    for way, called in WAYS.items():
        size, error = costs(maps, way)
        table.add_row(called, f"{size:,.0f}", f"{error:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
