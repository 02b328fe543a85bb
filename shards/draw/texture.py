"""What figures and rooms share: their random streams, colours, and a tile of natural-looking noise."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["TILE", "Array", "Colour", "any_colour", "fractal", "look_up", "mix", "stream"]

Array = NDArray[np.floating]
Colour = tuple[float, float, float]
"""Red, green and blue, 0..1."""

TILE = 256


def stream(kind: str, seed: int, number: int) -> np.random.Generator:
    """The random numbers of one image: they depend on nothing but its kind, the seed and its own number."""
    return np.random.default_rng([seed, number, *kind.encode()])


def fractal(rng: np.random.Generator, roughness: float = 1.3) -> NDArray[np.float32]:
    """Noise (TILE, TILE) whose amplitude falls as 1 / frequency**roughness; mean 0, deviation 1, and it tiles."""
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None])
    frequency[0, 0] = np.inf
    phases = rng.standard_normal((2, *frequency.shape))
    noise = np.fft.irfft2((phases[0] + 1j * phases[1]) / frequency**roughness)
    even: NDArray[np.float32] = (noise / noise.std()).astype(np.float32)
    return even


def look_up(tile: NDArray[np.float32], u: Array, v: Array) -> NDArray[np.float32]:
    """The tile at cell (v, u), repeated without end."""
    found: NDArray[np.float32] = tile[v.astype(np.int32) & (TILE - 1), u.astype(np.int32) & (TILE - 1)]
    return found


def mix(first: Colour, second: Colour, share: Array) -> NDArray[np.float32]:
    """Colours (..., 3): `first` where share is 0, `second` where it is 1."""
    a, b = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return a + (b - a) * share[..., None].astype(np.float32)


def any_colour(rng: np.random.Generator, low: float = 0.1, high: float = 0.9, saturation: float = 0.6) -> Colour:
    """A random colour, as bright as low..high and at most as strong as `saturation`."""
    bright, strength = rng.uniform(low, high), rng.uniform(0, saturation)
    red, green, blue = bright * (1 - strength * rng.permutation([0.0, rng.uniform(), 1.0]))
    return float(red), float(green), float(blue)
