"""The page tells what is in the data set, needs nothing from elsewhere, and shows names without obeying them."""

import base64
import io
import json
import re
import tarfile
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_data import SAMPLES, built, convert, images

from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.depth import ExistingDepthConfig
from shards.format.manifest import Manifest
from shards.format.schema import identity
from shards.format.splits import SplitConfig
from shards.ingest.index import plan_index
from shards.inspect.page import chart, coverage, survey, write_page
from shards.inspect.show import evenly, pictures

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page taken apart: its tags, attributes and text. Fails where a tag is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.style, self.text = "", ""
        self._open: list[str] = []
        self.feed(path.read_text())
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.style += data
        else:
            self.text += f"{data}\n"

    @property
    def images(self) -> list[Image.Image]:
        data = [value.partition(",")[2] for name, value in self.attributes if name in ("src", "xlink:href")]
        return [Image.open(io.BytesIO(base64.b64decode(one))) for one in data]


def written(dataset: Dataset, path: Path, samples: int = 5) -> Page:
    write_page(dataset, path, samples)
    return Page(path)


def test_nothing_on_the_page_comes_from_elsewhere(dataset: Path, tmp_path: Path) -> None:
    page = written(Dataset.open(dataset), tmp_path / "show.html")
    named = {name for name, _ in page.attributes}
    assert not page.tags.keys() & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not named & {"href", "srcset", "action", "data"}
    assert not {name for name in named if name.startswith("on")}
    sources = [value for name, value in page.attributes if name in ("src", "xlink:href")]
    assert all(re.match("data:image/(jpeg|png);base64,", value) for value in sources)
    styles = [page.style, *(value for name, value in page.attributes if not name.startswith("xmlns"))]
    assert not re.search(r"url\(|@import|http", "\n".join(styles))


def test_the_page_says_what_the_manifest_says(dataset: Path, tmp_path: Path) -> None:
    opened = Dataset.open(dataset)
    text = written(opened, tmp_path / "show.html").text
    for said in ("150", "48 × 48", "train\n120", "5 of 150", "8 distinct bg", str(opened.manifest.depth), "Nothing"):
        assert said in text
    for found in opened.manifest.statistics.values():
        assert all(f"{value:.3f}" in text for value in found.mean + found.std)
    assert "2020" not in text


def test_the_contact_sheet_shows_the_images_of_the_keys_beneath(dataset: Path, tmp_path: Path) -> None:
    opened, rows = Dataset.open(dataset), evenly(SAMPLES, 5)
    page = written(opened, tmp_path / "show.html")
    assert re.findall(r"combined_\w+", page.text) == [opened.key(int(row)) for row in rows]
    shown = page.images[: 4 * 5]
    for column, name in enumerate(opened.manifest.components):
        for thumbnail, picture in zip(shown[column::4], pictures(opened, name, rows), strict=True):
            assert np.abs(np.asarray(thumbnail, float) - np.asarray(picture, float)).mean() < 8


def test_the_same_data_set_gives_the_same_page(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cores in (("a", 1), ("b", 2)):
        monkeypatch.setattr("shards.inspect.page.cpu_count", lambda cores=cores: cores)
        write_page(Dataset.open(dataset), tmp_path / name, 5)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_survey_is_of_the_pixels(dataset: Path, tmp_path: Path) -> None:
    opened = Dataset.open(dataset)
    found = survey(opened)
    masks = [np.asarray(image) for image in pictures(opened, "mask", np.arange(SAMPLES))]
    assert found["mask"].tolist() == [np.bincount(mask.ravel(), minlength=256).tolist() for mask in masks]
    mean = (found["depth"].sum(0) @ np.arange(256)) / found["depth"].sum() / 255
    assert mean == pytest.approx(opened.manifest.statistics["depth"].mean[0], abs=1e-6)
    assert len(survey(opened, at_most=7)["mask"]) == 7
    area = np.median([100 * (mask >= 128).mean() for mask in masks])
    assert f"Median {area:.3g} %" in written(opened, tmp_path / "show.html").text


def test_coverage_counts_every_pair(dataset: Path) -> None:
    opened = Dataset.open(dataset)
    found = coverage(opened)
    known = [identity(opened.key(row)) for row in range(SAMPLES)]
    pairs = Counter((one.fg, one.bg) for one in known if one)
    assert found
    assert (len(found["per_figure"]), len(found["per_background"]), found["rounds"]) == (6, 8, 4)
    assert sorted(found["per_pair"]) == sorted(pairs.values())
    assert found["cells"].tolist() == [[pairs[str(fg), str(bg)] for bg in range(1, 9)] for fg in range(1, 7)]


def test_many_figures_are_told_of_together(dataset: Path) -> None:
    found = coverage(Dataset.open(dataset), cells=(4, 3))
    assert found
    assert found["cells"].shape == (4, 3)
    assert (found["cells"] * np.outer([2, 1, 2, 1], [3, 3, 2])).sum() == pytest.approx(SAMPLES)


EVIL = """<script>alert('1')</script>&amp;"onerror='2"""


def test_names_are_shown_and_not_obeyed(dataset: Path, tmp_path: Path) -> None:
    """Slashes make folders of it, and all comes back as text."""
    out = tmp_path / "<b>&"
    out.mkdir()
    found = list(images(Dataset.open(dataset)).values())
    with tarfile.open(out / "a.tar", "w") as tar:
        for i, parts in enumerate(found[:6]):
            for name, data in parts.items():
                member = tarfile.TarInfo(f"{EVIL}{i}.{name}.jpg")
                member.size = len(data) if (i, name) != (5, "mask") else 0
                tar.addfile(member, io.BytesIO(data))
    page = written(built(plan_index(out, ExistingDepthConfig(), SplitConfig()), out), tmp_path / "show.html")
    assert not page.tags.keys() & {"script", "b"}
    assert not {name for name, _ in page.attributes if name.startswith("on")}
    assert all(f"{EVIL}{i}" in page.text.split("\n") for i in range(5))
    assert f"{EVIL}5 mask" in page.text
    assert "<b>&" in page.text
    assert "The keys do not tell" in page.text


def test_what_was_left_out_is_told_with_the_first_of_each_kind(messy: Path, tmp_path: Path) -> None:
    for i in range(5):
        (messy / f"Thumbs{i}.db").write_bytes(b"x")
    broken = sorted((messy / "OverlayedMasks").rglob("*.jpg"))[3]
    broken.write_bytes(b"no image")
    dataset = convert([messy], tmp_path / "out")
    text = written(dataset, tmp_path / "show.html").text
    assert re.search(r"litter\n5\n", text)
    assert re.search(rf"not-an-image\n1\n{broken.stem} mask\n", text)
    assert re.findall(r"Thumbs\d", text) == ["Thumbs0", "Thumbs1", "Thumbs2"]
    (tmp_path / "out" / "left-out.tsv").unlink()
    assert "Thumbs" not in written(dataset, tmp_path / "show.html").text


def test_a_data_set_without_depth_has_a_page(damaged: Path, tmp_path: Path) -> None:
    path = damaged / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["components"]["depth"], manifest["statistics"]["depth"]
    path.write_text(json.dumps(manifest))
    page = written(Dataset.open(damaged), tmp_path / "show.html")
    assert "not there yet" in page.text
    assert len(page.images) == 3 * 5 + 1


def test_statistics_of_some_are_said_to_be(damaged: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(damaged)
    every = written(Dataset.open(damaged), tmp_path / "every.html").text
    (damaged / "manifest.json").write_text(replace(manifest, counted=40).to_json())
    some = written(Dataset.open(damaged), tmp_path / "some.html").text
    assert "over all pixels of all samples" in every
    assert "over all pixels of 40 samples, spread evenly" in some


def test_near_is_at_the_left_whichever_end_is_bright(damaged: Path, tmp_path: Path) -> None:
    path, medians = damaged / "manifest.json", []
    for black, white in ((0.0, 1.0), (1.0, 0.0)):
        manifest = json.loads(path.read_text()) | {"depth": {"black": black, "white": white, "unit": "relative"}}
        path.write_text(json.dumps(manifest))
        text = written(Dataset.open(damaged), tmp_path / "show.html").text
        medians.append(float(re.findall(r"Depth\nby pixel[^M]*Median ([\d.]+)\.", text)[0]))
    assert medians[0] < 0.45
    assert sum(medians) == pytest.approx(1, abs=0.01)


def test_an_image_that_does_not_decode_is_named(damaged: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(damaged)
    place = dataset.locate("mask", np.array([60]))
    with dataset.tar_path(int(place.file[0])).open("r+b") as tar:
        tar.seek(int(place.offset[0]))
        tar.write(bytes(int(place.size[0])))
    with pytest.raises(InputError, match=f"mask of {dataset.key(60)} does not decode"):
        write_page(dataset, tmp_path / "show.html", 5)
    assert not (tmp_path / "show.html").exists()


@pytest.mark.parametrize(("low", "high"), [(0, 0.37), (0, 100), (0.5, 80), (0, 1e-3)])
def test_ticks_are_few_and_within(low: float, high: float) -> None:
    svg, _ = chart(np.array([low, high]), low, high, " m")
    numbers = [float(text) for text in re.findall(r">([\d.e-]+) m</text>", svg)]
    assert 2 <= len(numbers) <= 7
    assert numbers == sorted(numbers)
    assert low - 1e-9 <= numbers[0] <= numbers[-1] <= high * (1 + 1e-9)


def test_bars_are_as_high_as_there_are_values() -> None:
    values, pixels = np.array([0.5, 1.5, 1.6, 3.9]), np.array([10, 20, 30, 40])
    svg, words = chart(values, 0, 4, " m", pixels)
    paths = re.findall(r"<title>([^<]*)</title><path d=\"M [\d.]+ ([\d.]+)\s+L [\d. ]+\s+L [\d.]+ ([\d.]+)", svg)
    heights = {title: float(bottom) - float(top) for title, bottom, top in paths}
    assert len(heights) == 64
    expected = np.histogram(values, 64, (0, 4), weights=pixels)[0]
    assert list(heights.values()) == pytest.approx(128 * expected / 40, abs=0.01)
    assert [title.partition(": ")[2] for title in heights if heights[title]] == ["10.0%", "20.0%", "30.0%", "40.0%"]
    assert words == "Median 1.6 m. 90 % of the pixels lie between 0.5 and 3.9 m."
