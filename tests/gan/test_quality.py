"""The measures give the known results of simple cases; the feature network, its cache, and the scores of a run."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import scipy.linalg
import torch

from gan_configs import images_config
from plcourse import Run
from plcourse.data import ImageSplits
from plcourse.errors import UserError
from plcourse.gan.data import SYMMETRIC, RealImages
from plcourse.gan.features import FeatureNetwork, fingerprint, fit_features
from plcourse.gan.gaussians import GaussianGrid, GaussianQuality, grid
from plcourse.gan.measures import (
    frechet_distance,
    kernel_distance,
    mode_fractions,
    modes_covered,
    precision_and_recall,
    total_variation,
)
from plcourse.gan.quality import ImageQuality, to_pixels
from support import Command, write_config

DRAW = np.random.default_rng(0)


class TestMeasures:
    def test_the_frechet_distance_is_that_of_the_formula(self) -> None:
        real, fake = DRAW.normal(size=(300, 5)), DRAW.normal(1, 2, size=(200, 5)) @ DRAW.normal(size=(5, 5))
        a, b = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
        root: Any = scipy.linalg.sqrtm(a @ b)
        expected = np.square(real.mean(0) - fake.mean(0)).sum() + np.trace(a + b - 2 * root.real)
        assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)
        assert frechet_distance(real, fake) == pytest.approx(frechet_distance(fake, real), rel=1e-9)

    def test_a_shift_costs_its_square_and_equal_samples_nothing(self) -> None:
        real = DRAW.normal(size=(100, 4))
        assert frechet_distance(real, real) == pytest.approx(0, abs=1e-10)
        assert frechet_distance(real, real + np.array([3, 0, 0, 4])) == pytest.approx(25, rel=1e-9)
        assert frechet_distance(real[:3], real[3:6]) >= 0  # fewer samples than features

    def test_the_kernel_distance_is_unbiased(self) -> None:
        same = [kernel_distance(*DRAW.normal(size=(2, 40, 3))) for _ in range(200)]
        assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(len(same))
        assert min(same) < 0 < max(same)
        assert kernel_distance(DRAW.normal(size=(40, 3)), DRAW.normal(2, 1, size=(40, 3))) > max(same)

    def test_the_kernel_distance_is_that_of_the_double_sum(self) -> None:
        x, y = DRAW.normal(size=(7, 3)), DRAW.normal(size=(5, 3))

        def k(a: np.ndarray, b: np.ndarray) -> float:
            return float((a @ b / 3 + 1) ** 3)

        within = [sum(k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j) for s in (x, y)]
        between = sum(k(a, b) for a in x for b in y)
        assert kernel_distance(x, y) == pytest.approx(within[0] / 42 + within[1] / 20 - 2 * between / 35)

    def test_precision_and_recall_tell_bad_samples_from_missing_ones(self) -> None:
        modes = np.repeat([[0.0, 0.0], [100.0, 0.0]], 50, axis=0)
        real = modes + DRAW.normal(size=modes.shape)
        dropped = DRAW.normal(size=(100, 2))  # good, but of one mode only
        precision, recall = precision_and_recall(real, dropped)
        assert precision > 0.8
        assert 0.3 < recall <= 0.5
        stray = np.concatenate([real[::2] + 0.01, DRAW.normal(50, 1, size=(50, 2))])
        precision, recall = precision_and_recall(real, stray)
        assert precision == pytest.approx(0.5, abs=0.02)
        assert recall > 0.9

    def test_precision_and_recall_do_not_depend_on_the_order(self) -> None:
        real, fake = DRAW.normal(size=(1500, 3)), DRAW.normal(0.5, 1, size=(1300, 3))  # more than a chunk of rows
        there, back = precision_and_recall(real, fake), precision_and_recall(fake, real)
        assert there == back[::-1]
        assert precision_and_recall(real[::-1].copy(), fake) == there

    def test_shares_of_modes(self) -> None:
        shares = mode_fractions(np.array([0, 0, 2, -1]), 3)
        assert shares.tolist() == [0.5, 0, 0.25]
        real = np.full(3, 1 / 3)
        assert modes_covered(shares, real) == 2
        assert modes_covered(np.array([0.03, 0.97, 0]), real) == 1  # less than a tenth of its share
        assert total_variation(real, real) == 0
        assert total_variation(np.array([1.0, 0, 0]), np.array([0, 0, 1.0])) == 1
        assert total_variation(np.zeros(3), real) == 1  # nothing in any mode
        assert total_variation(shares, real) == pytest.approx((1 / 6 + 1 / 3 + 1 / 12 + 1 / 4) / 2)


class TestPoints:
    def quality(self) -> GaussianQuality:
        quality = GaussianQuality()
        quality.prepare(cast(Any, SimpleNamespace(datamodule=GaussianGrid(side=3, std=0.1))))
        return quality

    def test_points_lie_around_the_modes(self) -> None:
        data = GaussianGrid(side=5, n_test=5000)
        points = data._points("test")
        centers = torch.from_numpy(grid(5, 2.0))[points.labels]
        assert len(set(points.labels.tolist())) == 25
        assert (points.points - centers).std().item() == pytest.approx(0.1, rel=0.03)
        assert (points.points - centers).mean().item() == pytest.approx(0, abs=0.006)

    def test_good_points_are_within_three_standard_deviations(self) -> None:
        near = self.quality().nearest(
            torch.tensor([[-2.0, -2.0], [-2.0, -1.71], [-2.0, -1.69], [2.0, 2.0], [9.0, 0.0]])
        )
        assert near.tolist() == [0, 0, -1, 8, -1]

    def test_real_points_score_as_they_should(self) -> None:
        quality = self.quality()
        points = GaussianGrid(side=3, std=0.1, n_test=4000)._points("test").points
        quality.update(points, points)
        scores = quality.scores(cast(Any, SimpleNamespace(state=SimpleNamespace(fn="test"))))
        assert scores["good"] == scores["good_floor"] == pytest.approx(1 - np.exp(-4.5), abs=0.006)
        assert scores["modes"] == 9
        assert scores["mode_tv"] < 0.05
        assert scores["samples"] == 4000

    def test_the_picture_puts_points_where_they_are(self) -> None:
        picture = self.quality().picture(torch.tensor([[2.0, 2.0]]), 8)
        row, column = np.argwhere((picture == (30, 80, 160)).all(axis=2))[0]
        assert row < 100  # upward
        assert column > 220


class TestFeatures:
    def images(self, **changes: Any) -> ImageSplits:
        return ImageSplits("digits", **{"test_size": 100, **changes}, normalization=SYMMETRIC)

    def network(self) -> FeatureNetwork:
        return FeatureNetwork(widths=(8, 16), features=16)

    @pytest.mark.medium
    def test_it_is_trained_once_and_leaves_random_numbers_alone(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = torch.get_rng_state()
        first, second = self.network(), self.network()
        torch.set_rng_state(before)
        fit_features(first, self.images(), tmp_path)
        assert torch.equal(torch.get_rng_state(), before)
        assert "feature network trained on" in capsys.readouterr().out
        fit_features(second, self.images(), tmp_path)
        assert capsys.readouterr().out == ""
        assert all(
            torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
        )
        assert first.accuracy > 0.9
        batch = RealImages("digits").splits.eval_loader(None, "train", 512)
        features = first(next(iter(batch))["image"])[0]
        assert features.square().mean().item() == pytest.approx(1, abs=0.1)

    @pytest.mark.medium
    def test_a_damaged_cache_is_refused(self, tmp_path: Path) -> None:
        fit_features(self.network(), self.images(), tmp_path)
        (path,) = tmp_path.glob("*.ckpt")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            fit_features(self.network(), self.images(), tmp_path)

    def test_the_cache_name_depends_on_data_and_architecture(self) -> None:
        name = fingerprint(self.network(), self.images())
        assert name == fingerprint(self.network(), self.images())
        assert name != fingerprint(self.network(), self.images(split_seed=1))
        assert name != fingerprint(FeatureNetwork(widths=(8, 16), features=8), self.images())

    @pytest.mark.slow
    def test_concurrent_processes_train_it_once(self, tmp_path: Path) -> None:
        code = (
            "from pathlib import Path; from plcourse.gan.features import *; from plcourse.gan.data import SYMMETRIC;"
            "n = FeatureNetwork(widths=(8, 16), features=16);"
            f"fit_features(n, ImageSplits('digits', normalization=SYMMETRIC), Path({str(tmp_path)!r}));"
            "print(float(n.head.weight.sum()))"
        )
        started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
        outputs = [process.communicate(timeout=120)[0].splitlines() for process in started]
        assert [process.returncode for process in started] == [0, 0]
        assert sorted(map(len, outputs)) == [1, 2]  # one says that it trained
        assert outputs[0][-1] == outputs[1][-1]

    @pytest.mark.parametrize(
        ("arguments", "what"), [({"channels": 3}, "channels 1"), ({"num_classes": 4}, "num_classes 10")]
    )
    def test_data_of_another_shape_are_refused(self, arguments: dict[str, Any], what: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=f"init_args.{what}"):
            fit_features(FeatureNetwork(**arguments), self.images(), tmp_path)

    def test_data_without_labeled_images_are_refused(self) -> None:
        quality = ImageQuality(self.network())
        quality.prepare(cast(Any, SimpleNamespace(datamodule=None, cache_dir=".")))
        with pytest.raises(UserError, match="RealImages"):
            quality.update(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))


class TestPictures:
    def test_a_grid_of_images_is_read_row_by_row(self) -> None:
        image_BCHW = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 1, 4, 4)
        picture = ImageQuality(FeatureNetwork()).picture(image_BCHW, 2)
        assert picture.shape == (3 * 6, 2 * 6, 3)
        middles = picture[3::6, 3::6, 0].reshape(-1)
        assert middles.tolist() == [0, 64, 128, 191, 255, 0]  # the last place is empty

    def test_pixels_of_color(self) -> None:
        pixels = to_pixels(torch.tensor([-2.0, -1.0, 0.0, 1.0]).reshape(1, 1, 2, 2))
        assert pixels.reshape(-1).tolist() == [0, 0, 128, 255]


def test_a_run_on_images_reports_floors_shares_and_its_features(forked: Command, tmp_path: Path, runs: Path) -> None:
    config = images_config("GAN", trainer__max_epochs=1)
    forked("fit", "-c", write_config(tmp_path / "images.yaml", config), "--then", "test")
    run = Run.load(runs / "own/images/latest")
    scores = run.eval("test")["metrics"]
    assert scores["test/samples"] == 101
    assert sum(scores[f"test/share_{digit}"] for digit in range(10)) == pytest.approx(1)
    assert 0 < scores["test/frechet_floor"] < scores["test/frechet"]
    assert scores["test/kid_floor"] < scores["test/kid"]
    assert scores["test/feature_accuracy"] > 0.9
    assert len(list((runs / "cache/features").glob("*.ckpt"))) == 1
    # the checkpoint brings its feature network along: another root, and no cache, give the same numbers
    done = forked("test", "--run", run.path, "--runs_root", tmp_path / "elsewhere")
    assert "feature network trained" not in done.stdout
    assert json.loads((run.path / "eval/test.json").read_text())["metrics"] == scores
