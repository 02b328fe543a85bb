"""Resizing: bilinear with antialiasing, whatever way it takes."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.decode import resize

SIDES = st.integers(8, 90)


@given(SIDES, SIDES, st.sampled_from([1, 3]), st.integers(4, 48), st.integers(0, 99))
def test_it_is_what_pillow_makes_to_a_level(height: int, width: int, channels: int, size: int, seed: int) -> None:
    """Two passes, each rounded: where they come in another order, a value may be one level of 255 apart."""
    pixels = np.random.default_rng(seed).integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    ours = resize(torch.from_numpy(pixels), size)
    assert ours.shape == (2, channels, size, size)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    for image, made in zip(pixels, ours.permute(0, 2, 3, 1), strict=True):
        theirs = Image.fromarray(image.squeeze()).resize((size, size), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(theirs, int).reshape(size, size, channels) - made.numpy()).max() <= 1


@given(st.integers(0, 99))
def test_no_size_and_its_own_size_leave_every_value(seed: int) -> None:
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (2, 20, 20, 1), dtype=np.uint8))
    for size in (None, 20):
        assert torch.equal(resize(pixels, size).permute(0, 2, 3, 1), pixels)
