"""Options of pasting: what each changes and leaves alone, and figures that stand before one another."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_data import SIZE, Drawn, built, compose_config, contents, division
from test_compose import figure, room, values

from shards.build.build import BuildConfig
from shards.errors import InputError
from shards.format.depth import METRES, depth_image
from shards.format.images import eight_bit
from shards.ingest.compose import ComposeUnit, plan_composition
from shards.ingest.paste import LUMA, Figure, PasteConfig, _chroma_matrix, _Kept, _level, paste

SEEDS = st.integers(0, 10**6)
STRENGTHS = st.floats(0.05, 1)
GREY = (120, 120, 120)
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def pasted(
    seed: int, *figures: Image.Image, back: tuple[int, int, int] = GREY, **options: Any
) -> dict[str, Image.Image]:
    return paste(room(back), [Figure(one) for one in figures], Random(seed), PasteConfig(size=SIZE, **options))


def blocks(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Opaque, each of one colour."""
    return [Image.new("RGBA", size, colour) for size, colour in zip(sizes, COLOURS, strict=False)]


def coloured(seed: int) -> Image.Image:
    """Opaque, each pixel of any colour."""
    noise = np.random.default_rng(seed).integers(0, 256, (30, 20, 3), np.uint8)
    image = Image.fromarray(noise)
    image.putalpha(255)
    return image


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.tobytes() == other.tobytes()


@given(SEEDS, STRENGTHS)
def test_jitter_changes_the_colours_of_the_figure_alone(seed: int, jitter: float) -> None:
    plain, other = (pasted(seed, figure((200, 60, 30), seed), jitter=some) for some in (0.0, jitter))
    assert same(plain["mask"], other["mask"])
    assert plain["depth"] == other["depth"]
    behind = values(plain["mask"]) == 0
    assert (values(plain["fg_bg"])[behind] == values(other["fg_bg"])[behind]).all()


@given(SEEDS, STRENGTHS)
def test_a_grey_figure_stays_grey_and_changes_in_brightness_at_most_by_jitter(seed: int, jitter: float) -> None:
    """Hue and saturation have nothing to change in it, and contrast neither in one grey."""
    made = pasted(seed, Image.new("RGBA", (20, 30), (100, 100, 100)), jitter=jitter, back=(0, 0, 0))
    found = values(made["fg_bg"])[values(made["mask"]) == 255]
    assert (found == found[0, 0]).all()
    assert 100 * (1 - jitter) - 1 <= found[0, 0] <= 100 * (1 + jitter) + 1


def test_jitter_is_drawn_for_each_figure_and_reaches_its_range() -> None:
    brightness = [values(pasted(seed, *blocks((20, 30)), jitter=0.5)["fg_bg"]).max() for seed in range(40)]
    assert len(set(brightness)) > 10


@given(st.floats(0, 2), st.floats(-2, 2), st.tuples(*[st.floats(0, 255)] * 3))
def test_saturation_and_hue_keep_luma_and_all_greys(saturation: float, turn: float, colour: Any) -> None:
    matrix = _chroma_matrix(saturation, turn)
    assert LUMA @ matrix @ colour == pytest.approx(LUMA @ colour, abs=1e-9)
    assert matrix @ np.ones(3) == pytest.approx(np.ones(3))
    assert _chroma_matrix(1, turn) @ _chroma_matrix(1, -turn) == pytest.approx(np.eye(3))
    assert _chroma_matrix(0, turn) == pytest.approx(np.tile(LUMA, (3, 1)))


@given(SEEDS, STRENGTHS)
def test_a_shadow_darkens_the_background_at_the_feet_alone(seed: int, shadow: float) -> None:
    plain, other = (pasted(seed, figure((200, 60, 30), seed), shadow=some) for some in (0.0, shadow))
    assert same(plain["mask"], other["mask"])
    assert plain["depth"] == other["depth"]
    before, after, alpha = values(plain["fg_bg"]), values(other["fg_bg"]), values(plain["mask"])
    assert (after <= before).all()
    assert (after[alpha == 255] == before[alpha == 255]).all()
    assert (after >= before - np.ceil(shadow * before) - 1).all()
    _, top, _, feet = plain["mask"].getbbox() or (0, 0, 0, 0)
    assert (after[: feet - (feet - top) // 2] == before[: feet - (feet - top) // 2]).all()


@given(SEEDS)
def test_a_whole_shadow_shows(seed: int) -> None:
    made = pasted(seed, *blocks((20, 30)), shadow=1.0, floor=0.2)
    left, _, right, feet = made["mask"].getbbox() or (0, 0, 0, 0)
    beside = values(made["fg_bg"])[feet - 1, [x for x in (left - 1, right) if 0 <= x < SIZE], 0]
    assert (beside < 0.85 * GREY[0]).all()


@given(SEEDS, st.lists(st.tuples(st.integers(5, 40), st.integers(5, 40)), min_size=2, max_size=3))
def test_nearer_figures_cover_farther_ones_in_all_three_images(seed: int, sizes: list[tuple[int, int]]) -> None:
    """Blocks of one colour tell which of them is seen where; only what is nearer may cut one."""
    made = pasted(seed, *blocks(*sizes), back=(0, 0, 0), floor=1.0)
    colours, metres, covered = values(made["fg_bg"]), values(made["depth"]) / 255 * 10, values(made["mask"])
    floor, reached = np.asarray(room(GREY).depth)[:, 0], 0
    assert np.abs(metres - floor[:, None])[covered == 0].max() <= 0.02
    for colour in COLOURS[: len(sizes)]:
        seen = (colours == colour).all(axis=2)
        if seen.any():
            rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
            (distance,) = set(metres[seen])
            assert (metres[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] <= distance).all()
            assert distance <= floor[rows[-1]] + 0.02
            reached += int((covered[seen] == 255).sum())
    assert reached == np.count_nonzero(covered)
    lowest = np.flatnonzero(covered.any(axis=1))[-1]
    assert np.abs(metres[lowest][covered[lowest] > 0] - floor[lowest]).max() <= 0.02


@given(SEEDS, st.integers(1, 3))
def test_the_mask_of_several_is_what_they_leave_of_the_background(seed: int, count: int) -> None:
    """White on black shows it: white that shines through the nearer ones is covered all the same."""
    made = pasted(seed, *(figure((255, 255, 255), seed + i) for i in range(count)), back=(0, 0, 0))
    assert np.abs(values(made["fg_bg"]) - values(made["mask"])[..., None]).max() <= 1


@given(SEEDS)
def test_a_figure_stands_where_it_stood_whoever_joins_it(seed: int) -> None:
    red, green = blocks((20, 40), (10, 10))
    alone, joined = pasted(seed, red), pasted(seed, red, green)
    was, now = ((values(made["fg_bg"]) == COLOURS[0]).all(axis=2) for made in (alone, joined))
    assert not (now & ~was).any()
    assert (values(joined["mask"])[was] == 255).all()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(1, 9)), max_size=60))
def test_scaled_figures_are_kept_within_bounds_and_are_the_same_kept_or_not(asked: list[tuple[int, int, int]]) -> None:
    figures = [Figure(coloured(seed), mirrored=seed == 2) for seed in range(3)]
    kept, most = _Kept(500), 500
    for number, *size in asked:
        width, height = size
        found, fresh = kept.get(figures[number], (width, height)), figures[number].scaled((width, height))
        assert same(found.image, fresh.image)
        assert kept.get(figures[number], (width, height)) is found
        assert kept.bytes == sum(5 * w * h for _, (w, h) in kept._images) <= most


@given(st.floats(-1, 12, width=32), st.sampled_from([8, 16]))
def test_one_distance_has_the_grey_that_it_has_in_a_depth_map(metres: float, bits: int) -> None:
    expected = depth_image(np.full((1, 1), metres, np.float32), METRES, bits)
    assert _level(np.float32(metres), bits) == values(expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"format": "png16"}, {"figures_per_image": (3, 3), "jitter": 0.4, "shadow": 0.5, "floor": 1.0}],
)
def test_the_statistics_are_of_every_pixel(drawn: Drawn, options: dict[str, Any]) -> None:
    for unit in plan_composition(compose_config(drawn, **options)).units:
        assert isinstance(unit, ComposeUnit)
        for pasting in unit.pastings:
            made, found = unit.pasted(pasting), unit.sample(pasting).histograms
            for name, image in made.items():
                channels = values(eight_bit(image)).reshape(SIZE * SIZE, -1).T
                assert np.array_equal(found[name], [np.bincount(one, minlength=256) for one in channels])


def many(drawn: Drawn, **options: Any) -> Any:
    return compose_config(drawn, **({"figures_per_image": (1, 3), "jitter": 0.4, "shadow": 0.5} | options))


def test_options_do_not_depend_on_workers_or_on_other_samples(drawn: Drawn, tmp_path: Path) -> None:
    for workers in (1, 2):
        config = many(drawn, samples=50)
        built(plan_composition(config), tmp_path / str(workers), BuildConfig(workers=workers))
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    few, all_ = (plan_composition(many(drawn, samples=samples)).units[0] for samples in (10, None))
    assert isinstance(few, ComposeUnit)
    assert isinstance(all_, ComposeUnit)
    assert few.sample(few.pastings[9]).images == all_.sample(few.pastings[9]).images


def test_as_many_figures_as_asked_for_and_the_named_one_among_them(drawn: Drawn, tmp_path: Path) -> None:
    """Cut-outs of pure colours, so large an image that all of them show somewhere."""
    cutouts = tmp_path / "fg"
    cutouts.mkdir()
    for number, block in enumerate(blocks((20, 20), (20, 20), (20, 20))):
        block.save(cutouts / f"{number}.png")
    options = {"samples": 60, "figures_per_image": (2, 3), "scale": (0.1, 0.1), "floor": 1.0}
    counts = set()
    for unit in plan_composition(compose_config(drawn._replace(fg=cutouts), **options)).units:
        assert isinstance(unit, ComposeUnit)
        for pasting in unit.pastings:
            figures = unit._figures(pasting)
            assert figures[0].image.getpixel((0, 0)) == (*COLOURS[pasting.fg - 1], 255)
            counts.add(len(figures))
    assert counts == {2, 3}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"jitter": -0.1}, "jitter is -0.1, where a number from 0"),
        ({"shadow": 1.1}, "shadow is 1.1, where a number from 0"),
        ({"figures_per_image": (0, 1)}, "figures-per-image.* is 0, where a number from 1"),
        ({"figures_per_image": (3, 2)}, "figures-per-image 3 2: two numbers"),
        ({"figures_per_image": (1, 2), "division": division(split_by="identity")}, "cannot be split by identity"),
    ],
)
def test_options_that_make_no_sense_are_refused(drawn: Drawn, option: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose_config(drawn, **option)
