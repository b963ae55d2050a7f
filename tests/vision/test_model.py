"""The network, its losses and its metrics, each against something computed by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from plcourse.data import IGNORE
from plcourse.vision.losses import TaskWeights, mask_loss, soft_dice_loss
from plcourse.vision.model import ClassifierSegmenter
from plcourse.vision.networks import ConvEncoder, TorchvisionEncoder, TwoHeads
from plcourse.vision.schedule import WarmupHoldDecay
from plcourse.vision.scores import BoundaryF1, VisionScores


def built(**arguments: Any) -> ClassifierSegmenter:
    torch.manual_seed(0)
    model = ClassifierSegmenter(ConvEncoder((4, 8)), **arguments)
    model.build(["a", "b", "c"] if model.classifies else [], ["bg", "x"] if model.segments else [])
    return model


class TestNetwork:
    @pytest.mark.parametrize("size", [(28, 28), (17, 23)])
    def test_any_height_and_width(self, size: tuple[int, int]) -> None:
        classes, mask = TwoHeads(ConvEncoder((4, 8, 12)), 5, 3)(torch.randn(2, 3, *size))
        assert classes is not None
        assert mask is not None
        assert classes.shape == (2, 5)
        assert mask.shape == (2, 3, *size)

    @pytest.mark.parametrize("small", [True, False])
    def test_a_torchvision_backbone(self, small: bool) -> None:
        encoder = TorchvisionEncoder("resnet18", small_images=small)
        network = TwoHeads(encoder, 4, 2).eval()
        image = torch.randn(1, 3, 40, 40)
        assert [each.shape[1] for each in encoder(image)] == list(encoder.widths)
        assert network(image)[1].shape == (1, 2, 40, 40)
        assert encoder(image)[0].shape[-1] * encoder.stride == 40

    def test_recomputing_gives_the_same_gradients_and_statistics(self) -> None:
        found = []
        for recompute in (False, True):
            torch.manual_seed(1)
            network = TwoHeads(ConvEncoder((4, 8)), 3, 2, dropout=0.5, recompute=recompute)
            for _ in range(2):
                classes, mask = network(torch.randn(4, 3, 12, 12))
                (classes.square().sum() + mask.square().sum()).backward()
            found.append([*(each.grad for each in network.parameters()), *network.buffers()])
        assert len(found[0]) > 20
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize(("off", "shapes"), [("class_weight", [(2, 2, 8, 8)]), ("mask_weight", [(2, 3)])])
    def test_a_weight_of_0_omits_a_head(self, off: str, shapes: list[tuple[int, ...]]) -> None:
        model = built(**{off: 0.0})
        assert [tuple(each.shape) for each in model(torch.randn(2, 3, 8, 8))] == shapes
        names = [name for name, _ in model.named_parameters()]
        assert any("mask_head" in name for name in names) == (off == "class_weight")
        assert len(model.export_signature().outputs) == 1

    def test_the_smallest_image_of_an_export_leaves_two_pixels_at_the_coarsest(self) -> None:
        for encoder, expected in ((ConvEncoder((4,) * 4), 9), (TorchvisionEncoder(small_images=False), 33)):
            free = ClassifierSegmenter(encoder).export_signature().inputs[0].free
            assert {free[2].min, free[3].min} == {expected}
            assert encoder.eval()(torch.randn(1, 3, expected, expected))[-1].shape[2:] == (2, 2)

    def test_weights_that_leave_no_task_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"class_weight=0.0, mask_weight=0.0: both must be 0 or more, one above 0"):
            ClassifierSegmenter(class_weight=0.0, mask_weight=0.0)


class TestLosses:
    def test_soft_dice_by_hand(self) -> None:
        scores = torch.zeros(1, 2, 2, 2)
        scores[0, 1, 0] = math.log(3)  # probability 3/4 above, 1/2 below
        mask = torch.tensor([[[1, 0], [1, IGNORE]]])
        # class 1 over the known pixels: both 3/4 + 1/2, predicted 3/4 + 3/4 + 1/2, there 2
        expected = 1 - (2 * 1.25 + 1) / (2.0 + 2 + 1)
        assert soft_dice_loss(scores, mask, mask != IGNORE).item() == pytest.approx(expected)

    def test_ignored_pixels_have_no_gradient(self) -> None:
        scores = torch.randn(2, 3, 4, 4, requires_grad=True)
        mask = torch.randint(0, 3, (2, 4, 4))
        mask[:, 1] = IGNORE
        mask_loss(scores, mask).sum().backward()
        assert scores.grad is not None
        assert scores.grad[:, :, 1].abs().max() == 0
        assert scores.grad[:, :, 0].abs().max() > 0

    def test_learned_weights_settle_where_each_loss_is_its_own_variance(self) -> None:
        weights = TaskWeights({"class": 1.0, "mask": 2.0}, learned=True)
        losses = {"class": torch.tensor(0.3), "mask": torch.tensor(1.7)}
        optimizer = torch.optim.SGD(weights.parameters(), lr=0.2)
        for _ in range(400):
            optimizer.zero_grad()
            weights(losses).backward()
            optimizer.step()
        # the derivative of exp(-s) L + s / 2 is 0 at exp(-s) = 1 / (2 L)
        assert weights.logged()["train/weight_class"].item() == pytest.approx(1 / 0.6, rel=1e-3)
        assert weights.logged()["train/weight_mask"].item() == pytest.approx(2 / (2 * 2 * 1.7), rel=1e-3)

    def test_fixed_weights_add_up(self) -> None:
        assert TaskWeights({"class": 0.5, "mask": 2.0})({"class": torch.tensor(2.0), "mask": torch.tensor(3.0)}) == 7


class TestScores:
    def test_all_scores_equal_numpys_whatever_the_batches(self) -> None:
        rng = np.random.default_rng(0)
        label, guess = rng.integers(0, 3, 20), rng.integers(0, 3, 20)
        mask, found = rng.integers(0, 3, (20, 6, 6)), rng.integers(0, 3, (20, 6, 6))
        mask[:, 0, :2] = IGNORE
        scores = VisionScores("test", ["a", "b", "c"], ["bg", "x", "x y"], per_class=True)
        for part in (slice(0, 13), slice(13, 20)):
            batch = {"label": torch.from_numpy(label[part]), "mask": torch.from_numpy(mask[part])}
            logits = functional.one_hot(torch.from_numpy(guess[part]), 3).float()
            maps = functional.one_hot(torch.from_numpy(found[part]), 3).permute(0, 3, 1, 2).float()
            scores.update(torch.ones(len(logits)), logits, maps, batch)
        values = {name: value.item() for name, value in scores.compute().items()}
        known = mask != IGNORE
        iou = [((mask == k) & (found == k)).sum() / (((mask == k) | (found == k)) & known).sum() for k in range(3)]
        assert values["test/accuracy"] == pytest.approx((label == guess).mean())
        assert values["test/accuracy_b"] == pytest.approx((guess[label == 1] == 1).mean())
        assert values["test/mean_iou"] == pytest.approx(np.mean(iou))
        assert values["test/foreground_iou"] == pytest.approx(np.mean(iou[1:]))
        assert values["test/iou_x_y"] == pytest.approx(iou[2])
        assert values["test/dice_x"] == pytest.approx(2 * iou[1] / (1 + iou[1]))

    def test_boundaries(self) -> None:
        square = torch.zeros(1, 12, 12, dtype=torch.long)
        square[0, 3:8, 3:8] = 1
        for shift, expected in ((0, 1.0), (1, 1.0), (4, 0.0)):  # by a pixel is within the tolerance, far away is not
            metric = BoundaryF1(2)
            metric.update(torch.roll(square, (shift, shift), (1, 2)) if shift < 4 else square * 0, square)
            assert metric.compute() == expected
        exact = BoundaryF1(2, tolerance=0)
        exact.update(torch.roll(square, 1, 1), square)
        # two outlines of 16 pixels, one row further: the two sides share 3 + 1 pixels each
        assert exact.compute().item() == pytest.approx(8 / 16)

    def test_an_absent_class_has_no_metric_and_is_in_no_mean(self) -> None:
        scores = VisionScores("val", [], ["bg", "x", "rare"])
        mask = torch.zeros(1, 4, 4, dtype=torch.long)
        mask[0, 1:3, 1:3] = 1
        scores.update(torch.zeros(1), None, functional.one_hot(mask, 3).permute(0, 3, 1, 2).float(), {"mask": mask})
        values = scores.compute()
        assert values["val/mean_iou"] == values["val/foreground_iou"] == values["val/boundary_f1"] == 1
        assert "val/iou_rare" not in values
        assert not any(value.isnan() for value in values.values())

    def test_masks_without_a_boundary_have_no_score(self) -> None:
        metric = BoundaryF1(2)
        metric.update(torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.long))
        assert metric.compute().isnan()


@pytest.mark.medium
def test_the_held_rate_does_not_depend_on_the_decay() -> None:
    def rates(hold: float) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
        schedule = WarmupHoldDecay(optimizer, warmup=0.2, hold=hold)
        schedule.start(20)
        found = []
        for _ in range(20):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    falling, held = rates(0.5), rates(1.0)
    assert falling[:10] == held[:10] == [0.5, 1.0, 1.5, 2.0, *[2.0] * 6]
    assert held[10:] == [2.0] * 10
    assert falling[10:] == sorted(falling[10:], reverse=True)
    assert falling[-1] < 0.1
