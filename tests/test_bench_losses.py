"""The comparison of losses, at the smallest budget: what is trained, measured and drawn. Figures decide nothing."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench import losses, measure
from model.losses import depth_loss, mask_loss
from model.unet import Prediction
from shards.errors import InputError


@pytest.mark.parametrize("one", losses.CRITERIA[:3], ids=lambda one: one.name)
def test_the_loss_of_2020_is_that_of_the_mask_and_twice_that_of_the_depth(one: losses.Criterion) -> None:
    _, mask, _, depth = one.options
    truth, same = torch.randint(256, (2, 1, 16, 16), dtype=torch.uint8), torch.rand(2, 1, 16, 16)
    prediction = Prediction(same, same, mask_is_logits=False)
    alike = mask_loss(mask)(prediction, truth), depth_loss(depth)(prediction, truth) / one.weight
    assert (one.weight, losses.CRITERIA[3].weight) == (2, 1)
    assert alike[0] == pytest.approx(alike[1].item(), rel=1e-5)


def test_the_losses_are_those_of_the_last_epoch(tmp_path: Path) -> None:
    lines: list[dict[str, float]] = []
    for step, mask, depth in ((5, 9.0, 9.0), (10, 9.0, 9.0), (15, 2.0, 4.0), (20, 4.0, 8.0)):
        lines.append({"step": step, "train/loss": 0, "train/mask_loss": mask, "train/depth_loss": depth})
        lines[-1]["train/samples_per_second"] = 32 * step
        lines += [{"step": step, "val/epoch": step / 10}] * (step % 10 == 0)
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    metrics = {"mask_iou": 0.5, "depth_iou_at_half_2020": 0.25, "depth_rmse": 0.125}
    (tmp_path / "evaluation-val.json").write_text(json.dumps(metrics))
    assert losses.figures(tmp_path, 2) == [8.0, 3.0, 3.0, 0.5, 0.25, 0.125]


def test_a_criterion_is_trained_with_measured_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(losses, "CRITERIA", losses.CRITERIA[2:3])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "results").mkdir()
    losses.main(samples=200, epochs=1, size=16, out=tmp_path / "some runs")
    text = (tmp_path / "RESULTS.md").read_text()
    assert capfd.readouterr().out.endswith(text.partition("<!-- losses -->\n\n")[2].partition("\n\n<!--")[0] + "\n")
    assert re.search(
        r"^\| L1 \| [\d.]+ \|  \| 0\.\d+ \| 0\.002 \| 0\.\d+ \| 0\.09 \| .* \| 0\.61 \| 0\.\d+ \|$", text, re.M
    )
    trained = json.loads((tmp_path / "some runs" / "l1" / "config.json").read_text())
    assert (trained["mask_loss"], trained["depth_loss"], trained["loader"]["size"]) == ("l1", "2*l1", 16)
    with Image.open(tmp_path / "results" / "losses.png") as picture:
        assert picture.width > 300
    with pytest.raises(InputError, match="is there already"):
        losses.main(out=tmp_path / "some runs")
    with pytest.raises(InputError, match="160 samples to train on"):
        losses.main(samples=19, out=tmp_path / "few")
