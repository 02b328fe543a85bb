"""An image without a header does not end the process: DALI, which may crash at one, does not get to see it."""

import io
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from bad_batches import COMPONENTS, SIZE, whole
from PIL import Image

from pipeline.headers import Headers
from pipeline.reader import WORD, Encoded
from shards.format.manifest import StoredComponent

WORKER = Path(__file__).parent / "bad_batches.py"


@pytest.mark.skipif(find_spec("nvidia") is None, reason="needs DALI")
@pytest.mark.parametrize(("batch_size", "threads"), [(24, 1), (24, 2), (256, 2)])
def test_hundreds_of_batches_with_damaged_images_do_not_end_the_process(batch_size: int, threads: int) -> None:
    environment = os.environ | {"PYTHONPATH": str(WORKER.parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), str(batch_size + threads), str(batch_size), str(threads)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr[-2000:]
    for line in finished.stdout.splitlines():
        assert line == "150 0 0", "all are refused by their headers"


def one(image: Image.Image, form: str, **options: object) -> Encoded:
    image.save(buffer := io.BytesIO(), form, **options)
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    return Encoded(data[None], {"it": np.zeros(1, np.int64)}, {"it": np.array([len(data)])})


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}), ("JPEG", {"optimize": True, "subsampling": 0}), ("JPEG", {"progressive": True}),
        ("JPEG", {"comment": b"\xff\xda" * 40}), ("JPEG", {"exif": b"Exif\0\0" + bytes(3000)}),
        ("JPEG", {"restart_marker_rows": 1}), ("PNG", {}), ("PNG", {"optimize": True}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_whole_headers_pass_and_those_of_others_do_not(form: str, options: dict[str, object], mode: str) -> None:
    encoded = one(Image.effect_noise((56, 40), 90).convert(mode), form, **options)
    extension, other = ("jpg", "png") if form == "JPEG" else ("png", "jpg")
    Headers({"it": StoredComponent(extension=extension, channels=3)}, (40, 56)).check(encoded)
    with pytest.raises(ValueError, match=f"it: not all images are {other}"):
        Headers({"it": StoredComponent(extension=other, channels=3)}, (40, 56)).check(encoded)
    for size in ((56, 40), (40, 55), (41, 56)):
        with pytest.raises(ValueError, match=f"{size[1]}x{size[0]} pixels"):
            Headers({"it": StoredComponent(extension=extension, channels=3)}, size).check(encoded)


def test_a_marker_may_be_filled_up() -> None:
    """Few encoders do, but decoders read it."""
    image = Image.effect_noise((56, 40), 90)
    image.save(buffer := io.BytesIO(), "JPEG")
    data = buffer.getvalue().replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1)
    data += bytes(-len(data) % WORD)
    encoded = Encoded(np.frombuffer(data, np.uint8)[None], {"it": np.zeros(1, np.int64)}, {"it": np.array([len(data)])})
    Headers({"it": StoredComponent(extension="jpg", channels=1)}, (40, 56)).check(encoded)


def test_a_header_that_is_cut_anywhere_does_not_pass() -> None:
    encoded, headers = whole(np.random.default_rng(0)), Headers(COMPONENTS, SIZE)
    headers.check(encoded)
    for name in COMPONENTS:
        image = bytes(encoded.images(name)[5])
        for size in range(
            0, image.find(b"\xff\xda") if name == "fg_bg" else len(image), 7
        ):  # a PNG is followed to its end
            sizes = {other: one.copy() for other, one in encoded.size.items()}
            sizes[name][5] = size
            with pytest.raises(ValueError, match=name):
                headers.check(encoded._replace(size=sizes))
