"""Decodes batches in which some images have no header, in a process of its own, because DALI may end it.

bad_batches.py SEED BATCH_SIZE THREADS
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from pipeline.decode import make_decoder
from pipeline.headers import Headers
from pipeline.reader import WORD, Encoded
from shards.format.images import encode_image
from shards.format.manifest import StoredComponent

SIZE, SAMPLES, BATCHES = (40, 56), 24, 150
COMPONENTS = {
    "fg_bg": StoredComponent(extension="jpg", channels=3),
    "mask": StoredComponent(extension="png", channels=1),
    "depth": StoredComponent(extension="png", channels=1, bits=16),
}


def whole(random: np.random.Generator) -> Encoded:
    images = []
    for _ in range(SAMPLES):
        pixels = random.integers(0, 65536, (3, *SIZE), np.uint16)
        one, grey = Image.fromarray(np.uint8(pixels.transpose(1, 2, 0) >> 8)), Image.fromarray(np.uint8(pixels[0] >> 8))
        coded = encode_image(one, "jpg", full_chroma=True), encode_image(grey, "png")
        images.append([*coded, encode_image(Image.fromarray(pixels[0]), "png")])
    sizes = np.array([[len(image) for image in sample] for sample in images]).T
    begins = np.cumsum(whole_words := -(-sizes // WORD) * WORD, 0) - whole_words
    rows = np.zeros((SAMPLES, whole_words.sum(0).max()), np.uint8)
    for row, sample, places in zip(rows, images, begins.T, strict=True):
        for image, begin in zip(sample, places, strict=True):
            row[begin : begin + len(image)] = np.frombuffer(image, np.uint8)
    return Encoded(rows, *(dict(zip(COMPONENTS, column, strict=True)) for column in (begins, sizes)))


def damaged(encoded: Encoded, random: np.random.Generator) -> Encoded:
    rows, sizes = encoded.rows.copy(), {name: size.copy() for name, size in encoded.size.items()}
    for _ in range(random.choice([1, 1, 3, 14])):
        name, number = str(random.choice(list(COMPONENTS))), int(random.integers(SAMPLES))
        begin, size = encoded.begin[name][number], encoded.size[name][number]
        image = rows[number, begin : begin + size]
        match random.integers(4):
            case 0:
                image[:] = 0
            case 1:
                image[:] = random.integers(0, 256, size)
            case 2:
                sizes[name][number] = random.integers(0, 30)
            case 3:
                image[random.integers(0, 4) :] = 0
    return Encoded(rows, encoded.begin, sizes)


def main(seed: int, batch_size: int, threads: int) -> None:
    encoded = whole(np.random.default_rng(seed))

    def run(thread: int) -> list[int]:
        random, refused = np.random.default_rng([seed, thread]), [0, 0, 0]
        decoder = make_decoder("cpu", COMPONENTS, batch_size, SIZE, torch.device("cpu"), 0.9)
        expected, headers = decoder.decode(encoded), Headers(COMPONENTS, SIZE)
        for _ in range(BATCHES):
            bad, stage = damaged(encoded, random), 0
            try:
                headers.check(bad)
                stage = 1
                decoder.decode(bad)
                stage = 2
            except ValueError:
                pass
            refused[stage] += 1
        headers.check(encoded)
        assert all(torch.equal(image, expected[name]) for name, image in decoder.decode(encoded).items())
        return refused

    with ThreadPoolExecutor(threads) as pool:
        for refused in pool.map(run, range(threads)):
            print(*refused)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
