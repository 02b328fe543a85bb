import torch

from model.pictures import rows_of
from model.unet import Prediction


def test_a_perfect_prediction_draws_the_same_rows_as_the_truth() -> None:
    fg_bg = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    mask, depth = (torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8) for _ in range(2))
    rows = rows_of(fg_bg, mask, depth, Prediction(mask / 255, depth / 255, mask_is_logits=False))
    assert list(rows) == ["image", "true mask", "true depth", "predicted mask", "predicted depth"]
    assert {(row.shape, row.dtype) for row in rows.values()} == {((3, 8, 8, 3), torch.uint8)}
    assert torch.equal(rows["image"], fg_bg.permute(0, 2, 3, 1))
    assert torch.equal(rows["true mask"], rows["predicted mask"])
    assert (rows["true depth"].int() - rows["predicted depth"].int()).abs().max() <= 1


def test_only_what_there_is_has_a_row_and_without_true_depth_the_farthest_predicted_point_is_white() -> None:
    fg_bg = torch.full((2, 3, 4, 4), 10, dtype=torch.uint8)
    share = fg_bg[:, :1] / 255
    masked = rows_of(fg_bg, fg_bg[:, :1], None, Prediction(share, None, mask_is_logits=False))
    assert list(masked) == ["image", "true mask", "predicted mask"]
    deep = rows_of(fg_bg, None, None, Prediction(None, share))
    assert list(deep) == ["image", "predicted depth"]
    assert (deep["predicted depth"] == 255).all()


def test_each_sample_has_its_own_farthest_point_white() -> None:
    fg_bg = torch.stack([torch.full((3, 4, 4), 10), torch.full((3, 4, 4), 20)]).to(torch.uint8)
    mask = depth = fg_bg[:, :1]
    rows = rows_of(fg_bg, mask, depth, Prediction(mask / 255, depth / 255, mask_is_logits=False))
    assert torch.equal(rows["image"], fg_bg.permute(0, 2, 3, 1))
    assert (rows["true depth"] == 255).all()
