"""A data set may have only some of the components: all the way from tars to predictions it takes what is there."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from small_data import ONE_WORKER, SIZE, TREES, images, indexed_here
from test_foreign import left_out, packed
from test_loader import DALI, epoch
from test_loader import images as of_batch

from evaluate import EvaluateConfig
from evaluate import main as evaluate_command
from model.metrics import MEANING
from model.unet import UNetConfig
from pipeline.loader import LoaderConfig
from predict import PredictConfig
from predict import main as predict_command
from ranks import Ranks
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.images import encode_image
from shards.format.schema import BY_NAME
from shards.format.splits import SplitConfig
from shards.format.storage import LocalFolder
from shards.inspect.export import export
from shards.inspect.page import write_page
from shards.inspect.show import contact_sheet, describe
from shards.inspect.verify import verify
from train import TrainConfig, train

SETS = [("fg_bg", "mask"), ("fg_bg", "depth"), ("fg_bg", "mask", "bg"), ("fg_bg", "mask", "depth")]
SAMPLES = 40


def named(components: tuple[str, ...]) -> str:
    return "-".join(components)


def indexed(folder: Path) -> Dataset:
    return indexed_here(folder, SplitConfig(val_share=0.2, test_share=0.2))


@pytest.fixture(scope="module")
def partial(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """By components: the data set's first samples in a tar that has no others."""
    whole, found = list(images(Dataset.open(dataset)).items())[:SAMPLES], {}
    for components in [*SETS, ("fg_bg",), ("fg_bg", "bg"), tuple(BY_NAME)]:
        folder = found[components] = tmp_path_factory.mktemp(named(components))
        packed(folder / "a.tar", ((f"{key}.{name}.jpg", parts[name]) for key, parts in whole for name in components))
        assert tuple(indexed(folder).manifest.components) == components
    return found


def config(data: Path, out: Path, **options: Any) -> TrainConfig:
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    reading = LoaderConfig(data=data, size=16, batch_size=8, decode="portable", num_threads=1)
    small = UNetConfig(width=4, levels=2)
    own: dict[str, Any] = {"epochs": 1, "log_every": 1, "wandb": "off", "device": "cpu"} | options
    return TrainConfig(loader=reading, unet=small, out=out, **own)


def trained(data: Path, out: Path, **options: Any) -> Path:
    train(config(data, out, **options), Ranks(0, 1, torch.device("cpu")))
    return out / "checkpoints" / "best.pt"


@pytest.mark.parametrize("decode", [DALI])
@pytest.mark.parametrize("components", SETS, ids=named)
def test_it_loads_alike_with_every_decoder_and_cache(
    partial: dict[tuple[str, ...], Path], components: tuple[str, ...], decode: str
) -> None:
    plain = epoch(partial[components])
    for options in ({"decode": decode}, {"cache": "host"}, {"bank_mib": 0}, {"decode": decode, "batch_size": 16}):
        for one, other in zip(plain, epoch(partial[components], **options), strict=True):
            assert [image is None for image in one] == [image is None for image in other]
            assert {name for name in BY_NAME if getattr(one, name) is not None} == set(components)
            for ours, theirs in zip(of_batch(one), of_batch(other), strict=True):
                assert (ours.int() - theirs.int()).abs().max() <= 2


@pytest.mark.parametrize("components", SETS, ids=named)
def test_it_is_shown_verified_and_exported(
    partial: dict[tuple[str, ...], Path], components: tuple[str, ...], tmp_path: Path
) -> None:
    data = Dataset.open(partial[components])
    assert verify(LocalFolder(data.root), ONE_WORKER) == []
    describe(LocalFolder(data.root), Console(file=(said := io.StringIO()), width=120))
    assert re.findall(r"│ (\w+) +│ jpg", said.getvalue()) == list(components)
    contact_sheet(data, tmp_path / "sheet.png", 3)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height == len(components) * (SIZE + 2)
    write_page(data, tmp_path / "show.html", 3)
    page = (tmp_path / "show.html").read_text()
    assert ["<h3>Mask area" in page, "<h3>Depth" in page] == [name in components for name in ("mask", "depth")]
    export(data, tmp_path / "files", ONE_WORKER)
    folders = {path.name for path in (tmp_path / "files").iterdir() if not path.name.startswith(".")}
    assert folders == {TREES[name] for name in components}


@pytest.mark.parametrize("components", SETS, ids=named)
def test_it_is_trained_on_measured_and_predicted_with(
    partial: dict[tuple[str, ...], Path],
    components: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    best, predicted = trained(partial[components], run), {"mask", "depth"} & set(components)
    said = capsys.readouterr().out
    seen = ", ".join(name for name in components if name not in predicted)
    assert f"the network learns {' and '.join(sorted(predicted, reverse=True))} from {seen}\n" in said
    assert ["mask IoU" in said, "depth RMSE" in said] == [name in predicted for name in ("mask", "depth")]
    metrics = {name for name in MEANING if name.partition("_")[0] in predicted}
    logged = [json.loads(one) for one in (run / "metrics.jsonl").read_text().splitlines()]
    assert {f"{name}_loss" for name in predicted} == {
        name.removeprefix("train/") for name in logged[0] if name.endswith("_loss")
    }
    assert metrics == {name.removeprefix("val/") for name in logged[-1] if name.startswith("val/")} - {"epoch"}
    evaluate_command(EvaluateConfig(checkpoint=best, device="cpu"))
    evaluate_command(EvaluateConfig(checkpoint=best, device="cpu", split="val", data=str(partial[tuple(BY_NAME)])))
    for split in ("test", "val"):
        assert json.loads((run / f"evaluation-{split}.json").read_text()).keys() == metrics
    page = (run / "report.html").read_text()
    assert [f"<dt>{name}</dt>" in page for name in ("mask IoU", "depth RMSE")] == [
        name in predicted for name in ("mask", "depth")
    ]
    assert page.count("The worst of ") == 2
    with Image.open(run / "evaluation-test.png") as picture:
        assert picture.height == (1 + 2 * len(predicted)) * 16
    Image.new("RGB", (30, 20), "gray").save(tmp_path / "a.png")
    bg = tmp_path / "a.png" if "bg" in components else None
    predict_command(PredictConfig(checkpoint=best, fg_bg=tmp_path / "a.png", bg=bg, out=tmp_path / "out", device="cpu"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"a.{name}.png" for name in predicted}
    line = capsys.readouterr().out.splitlines()[-1]
    assert ["NAME.mask.png" in line, "NAME.depth.png" in line] == [name in predicted for name in ("mask", "depth")]


@pytest.mark.parametrize("components", [("fg_bg",), ("fg_bg", "bg")], ids=named)
def test_without_mask_and_depth_there_is_nothing_to_learn(
    partial: dict[tuple[str, ...], Path], components: tuple[str, ...], tmp_path: Path
) -> None:
    data = partial[components]
    said = (
        rf"{data}: .* only {', '.join(components)}; to train, mask or depth is needed.*`python -m shards depth {data}"
    )
    with pytest.raises(InputError, match=said):
        trained(data, tmp_path)


def test_the_network_of_2020_needs_all(partial: dict[tuple[str, ...], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--architecture seed needs depth, bg too"):
        trained(partial["fg_bg", "mask"], tmp_path, architecture="seed", mask_loss="l1")


def test_what_a_network_needs_is_said(partial: dict[tuple[str, ...], Path], tmp_path: Path) -> None:
    alone, paired = (trained(partial[one], tmp_path / named(one)) for one in (SETS[0], SETS[2]))
    image = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(image)
    with pytest.raises(InputError, match=r"predicts mask; .* have fg_bg, depth\. Use a data set with mask\."):
        evaluate_command(EvaluateConfig(checkpoint=alone, data=str(partial["fg_bg", "depth"]), device="cpu"))
    with pytest.raises(
        InputError, match=r"sees the background as well; .* have fg_bg, mask\. Use a data set with bg\."
    ):
        evaluate_command(EvaluateConfig(checkpoint=paired, data=str(partial["fg_bg", "mask"]), device="cpu"))
    with pytest.raises(InputError, match=r"sees the background as well\. Name it: FG_BG BG"):
        predict_command(PredictConfig(checkpoint=paired, fg_bg=image, out=tmp_path / "out", device="cpu"))
    with pytest.raises(InputError, match=r"trained without backgrounds\. Leave .*a\.png out"):
        predict_command(PredictConfig(checkpoint=alone, fg_bg=image, bg=image, out=tmp_path / "out", device="cpu"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"trained on samples of fg_bg, mask; those of .* have fg_bg, mask, depth\."):
        trained(partial["fg_bg", "mask", "depth"], tmp_path / "fg_bg-mask", resume=tmp_path / "fg_bg-mask")


def test_tars_have_what_most_samples_have_and_the_rest_is_told(dataset: Path, tmp_path: Path) -> None:
    whole = list(images(Dataset.open(dataset)).items())[:8]
    lacks = {0: ("depth", "bg"), 1: ("depth", "bg"), 2: ("bg",), 3: ("bg",)}  # half of them have all
    kept = {
        f"{key}.{name}.jpg": data
        for i, (key, parts) in enumerate(whole)
        for name, data in parts.items()
        if name not in lacks.get(i, ())
    }
    packed(tmp_path / "a.tar", kept.items())
    made = indexed(tmp_path)
    assert list(made.manifest.components) == ["fg_bg", "mask", "depth"]
    assert images(made) == {key: {name: parts[name] for name in BY_NAME if name != "bg"} for key, parts in whole[2:]}
    keys = [key for key, _ in whole]
    assert left_out(tmp_path) == sorted(
        [("missing", keys[i], "a.tar") for i in (0, 1)]
        + [("unused", keys[i], f"a.tar/{keys[i]}.bg.jpg") for i in (4, 5, 6, 7)]
    )


def test_the_format_is_that_of_the_bytes_whatever_the_name(dataset: Path, tmp_path: Path) -> None:
    whole = list(images(Dataset.open(dataset)).items())[:6]
    masks = [encode_image(Image.open(io.BytesIO(parts["mask"])), "png") for _, parts in whole]
    packed(
        tmp_path / "a.tar",
        (
            (f"{key}.{name}.jpg", data)
            for (key, parts), mask in zip(whole, masks, strict=True)
            for name, data in (parts | {"mask": mask}).items()
        ),
    )
    made = indexed(tmp_path)
    assert {name: one.extension for name, one in made.manifest.components.items()} == {
        "fg_bg": "jpg",
        "mask": "png",
        "depth": "jpg",
        "bg": "jpg",
    }
    assert [parts["mask"] for parts in images(made).values()] == masks
    assert np.all([len(batch.index) for batch in epoch(tmp_path, batch_size=2)])
