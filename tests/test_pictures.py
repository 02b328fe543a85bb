import torch

from model.pictures import rows_of
from model.unet import Prediction


def test_a_perfect_prediction_draws_the_same_rows_as_the_truth() -> None:
    fg_bg = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    mask, depth = (torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8) for _ in range(2))
    picture = rows_of(fg_bg, mask, depth, Prediction(mask / 255, depth / 255, mask_is_logits=False), columns=2)
    assert picture.shape == (5 * 8, 2 * 8, 3)
    _, true_mask, true_depth, predicted_mask, predicted_depth = picture.view(5, 8, 16, 3)
    assert torch.equal(true_mask, predicted_mask)
    assert (true_depth.int() - predicted_depth.int()).abs().max() <= 1


def test_only_what_there_is_has_a_row_and_without_true_depth_the_farthest_predicted_point_is_white() -> None:
    fg_bg = torch.full((2, 3, 4, 4), 10, dtype=torch.uint8)
    share = fg_bg[:, :1] / 255
    assert rows_of(fg_bg, fg_bg[:, :1], None, Prediction(share, None, mask_is_logits=False)).shape == (3 * 4, 8, 3)
    picture = rows_of(fg_bg, None, None, Prediction(None, share))
    assert picture.shape == (2 * 4, 8, 3)
    assert (picture[4:] == 255).all()


def test_each_column_shows_its_own_sample_with_its_farthest_point_white() -> None:
    fg_bg = torch.stack([torch.full((3, 4, 4), 10), torch.full((3, 4, 4), 20)]).to(torch.uint8)
    mask = depth = fg_bg[:, :1]
    picture = rows_of(fg_bg, mask, depth, Prediction(mask / 255, depth / 255, mask_is_logits=False))
    assert (picture[:4, :4] == 10).all()
    assert (picture[:4, 4:] == 20).all()
    assert (picture[8:12] == 255).all()
