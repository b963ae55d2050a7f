"""A sample depends on its seed, not on batch, rank or run; the files that predict and the callback write."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gan_configs import images_config, points_config
from plcourse import Run
from plcourse.gan.gaussians import GaussianGrid, GaussianQuality
from plcourse.gan.latents import Seeds, between, latents_of, mixing_fractions, training_latents
from plcourse.gan.networks import ConvDiscriminator, ConvGenerator, PointDiscriminator, PointGenerator
from plcourse.gan.nonsaturating import GAN
from plcourse.gan.r3gan import R3GAN
from plcourse.gan.wgan_gp import WGANGP
from plcourse.training.exportable import standing_in
from support import TWO_PROCESSES, Command, write_config


class TestLatents:
    def test_a_latent_depends_on_its_seed_alone(self) -> None:
        many = latents_of(np.arange(100, dtype=np.uint64), 7)
        assert torch.equal(latents_of(np.array([42], np.uint64), 7)[0], many[42])
        assert len(torch.unique(many)) == 700

    def test_latents_are_standard_normal(self) -> None:
        latents = latents_of(np.arange(4000, dtype=np.uint64), 5).double()
        assert latents.mean().abs() < 0.03
        assert torch.allclose(latents.T.cov(), torch.eye(5, dtype=torch.float64), atol=0.08)
        assert latents.pow(4).mean().item() == pytest.approx(3, abs=0.2)

    def test_each_purpose_turn_and_step_has_independent_latents(self) -> None:
        ids = ["a", "b"]
        draws = [
            training_latents(purpose, step, turn, ids, 3)
            for purpose in ("discriminator", "generator")
            for step in (0, 1)
            for turn in (0, 1)
        ]
        assert len(torch.unique(torch.stack(draws))) == 8 * 6
        assert torch.equal(training_latents("generator", 1, 1, ["b"], 3)[0], draws[-1][1])
        shares = mixing_fractions(0, 0, [str(i) for i in range(1000)])
        assert 0 <= shares.min() < 0.01 < 0.99 < shares.max() < 1

    def test_interpolated_latents_keep_their_distance_from_the_origin(self) -> None:
        a, b = latents_of(np.array([1, 2], np.uint64), 64)
        path = between(a, b, 9)
        torch.testing.assert_close(path[0], a)
        torch.testing.assert_close(path[-1], b)
        lengths = path.norm(dim=1)
        assert lengths.min() > 0.95 * min(a.norm(), b.norm())
        assert ((a + b) / 2).norm() < 0.8 * lengths.min()
        torch.testing.assert_close(between(a, a, 3), torch.stack([a, a, a]))
        assert between(a, -a, 3).isfinite().all()

    @pytest.mark.parametrize(("seeds", "why"), [([1, -2], "-2 is negative"), ([3, 3], "twice")])
    def test_invalid_seeds_are_refused(self, seeds: list[int], why: str) -> None:
        with pytest.raises(ValueError, match=why):
            Seeds(seeds)


@pytest.mark.parametrize("model", [GAN, WGANGP, R3GAN])
def test_an_exported_generator_is_tested_on_the_latents_it_is_compared_on(model: Any) -> None:
    module = model(PointGenerator(hidden=[8]), PointDiscriminator(hidden=[8]), GaussianQuality())
    data, asked = GaussianGrid(side=2, n_test=12), []
    module.quality.prepare(SimpleNamespace(datamodule=data))
    batch = next(iter(data.test_dataloader()))

    def generator(latent: torch.Tensor) -> torch.Tensor:
        asked.append(latent)
        return torch.zeros(len(latent), 2)

    with standing_in(module, generator):
        module.test_step(batch, 0)
    assert torch.equal(asked[0], *module.export_inputs(batch))
    signature = module.export_signature()
    assert (signature.metrics, signature.mode) == (("test/mode_tv",), "min")
    assert signature.outputs[0].classes is None


class TestNetworks:
    @pytest.mark.parametrize(("channels", "size", "widths"), [(1, 28, (16, 8)), (3, 32, (16, 16, 8)), (1, 8, (8,))])
    def test_image_networks_have_matching_shapes(self, channels: int, size: int, widths: tuple[int, ...]) -> None:
        generator = ConvGenerator(5, channels, size, widths)
        images = generator(torch.randn(3, 5))
        assert images.shape == (3, channels, size, size)
        assert images.abs().max() <= 1
        assert ConvDiscriminator(channels, size, widths[::-1])(images).shape == (3,)

    def test_point_networks_have_matching_shapes(self) -> None:
        points = PointGenerator(4, 2)(torch.randn(3, 4))
        assert points.shape == (3, 2)
        assert PointDiscriminator(2)(points).shape == (3,)

    @pytest.mark.parametrize("network", [ConvGenerator, ConvDiscriminator])
    def test_a_size_that_cannot_be_halved_is_refused(self, network: type) -> None:
        with pytest.raises(ValueError, match="image_size is 30; with 2 widths it must be a multiple of 4"):
            network(image_size=30)

    def test_samples_of_a_batch_are_independent(self) -> None:
        generator, discriminator = ConvGenerator(5), ConvDiscriminator()
        latents = torch.randn(6, 5)
        torch.testing.assert_close(generator(latents)[:2], generator(latents[:2]))
        images = torch.rand(6, 1, 28, 28)
        torch.testing.assert_close(discriminator(images)[4:], discriminator(images[4:]))


def table(folder: Path) -> dict[str, list[object]]:
    return pq.read_table(folder).sort_by("id").to_pydict()


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


class TestPredict:
    def test_images_table_and_strips(self, forked: Command, tmp_path: Path, runs: Path) -> None:
        config = images_config("R3GAN", trainer__max_epochs=1, data__init_args__predict_samples=10)
        pictures = {"samples": 6, "columns": 3, "strips": 2}
        config["trainer"]["callbacks"].append({"class_path": "SamplePictures", "init_args": pictures})
        forked("fit", "-c", write_config(tmp_path / "images.yaml", config), "--then", "predict")
        run = Run.load(runs / "own/images/latest")
        rows = table(run.path / "predictions")
        assert rows["seed"] == list(range(10))
        assert set(rows) == {"id", "seed", "label", "label_name", "confidence"}
        assert all(0.1 <= value <= 1 for value in rows["confidence"])  # pyright: ignore[reportOperatorIssue]
        images = run.path / "samples"
        assert sorted(path.stem for path in images.iterdir()) == rows["id"]
        assert pixels(images / "00000003.png").shape == (8, 8)
        assert pixels(run.path / "plots/interpolation.png").shape == (2 * 10, 3 * 10, 3)
        assert pixels(run.path / "plots/samples-0001.png").shape == (2 * 10, 3 * 10, 3)
        seventh = pixels(images / "00000007.png")

        # any one sample can be made again, by other batches, and by two processes
        flags = ["--data.init_args.predict_seeds", "[7, 123456789]", "--data.init_args.batch_size", "1"]
        two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
        forked("predict", "--run", run.path, *flags, *two)
        (folder,) = {file.parent for file in (run.path / "predictions").glob("_*/*.parquet")}
        again = table(folder)
        assert table(run.path / "predictions") == rows
        assert again["seed"] == [7, 123456789]
        assert again["label"][0] == rows["label"][7]
        assert again["confidence"][0] == pytest.approx(rows["confidence"][7], rel=1e-4)
        assert sorted(path.stem for path in images.iterdir()) == rows["id"]
        assert sorted(path.stem for path in (folder / "_pictures" / "samples").iterdir()) == ["00000007", "123456789"]
        assert np.abs(pixels(folder / "_pictures" / "samples" / "00000007.png") - seventh).max() <= 1

    def test_points_have_their_modes(self, forked: Command, tmp_path: Path, runs: Path) -> None:
        config = points_config("GAN", trainer__max_epochs=1, data__init_args__predict_samples=50)
        config["trainer"]["callbacks"].append({"class_path": "SamplePictures"})
        forked("fit", "-c", write_config(tmp_path / "points.yaml", config), "--then", "predict")
        run = Run.load(runs / "own/points/latest")
        rows = table(run.path / "predictions")
        assert set(rows) == {"id", "seed", "x", "y", "label"}
        assert len(rows["x"]) == 50
        assert (run.path / "plots/interpolation.png").is_file()
        assert list((run.path / "tensorboard").iterdir())


class TestErrors:
    def test_images_of_another_size_are_refused(self, forked: Command, tmp_path: Path) -> None:
        config = images_config("GAN", data__init_args__source="digits", data__init_args__image_size=16)
        done = forked("fit", "-c", write_config(tmp_path / "size.yaml", config), status=2)
        (line,) = [line for line in done.stderr.splitlines() if line.strip()]
        assert "the generator makes samples of shape [1, 8, 8], but the data have [1, 16, 16]" in line

    def test_the_optimizer_alias_names_the_two_optimizers(self, forked: Command, tmp_path: Path) -> None:
        path = write_config(tmp_path / "alias.yaml", points_config("GAN"))
        done = forked("fit", "-c", path, "--optimizer.lr", "0.1", status=2)
        (line,) = [line for line in done.stderr.splitlines() if line.strip()]
        remedy = "this one has --model.init_args.generator_optimizer and --model.init_args.discriminator_optimizer"
        assert line == f"plcourse: error: --optimizer.lr is for models with one optimizer; {remedy}"

    def test_a_loss_that_is_not_finite_says_how_to_clip(self, forked: Command, tmp_path: Path) -> None:
        config = points_config("GAN")
        sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}}
        config["model"]["init_args"]["generator_optimizer"] = sgd
        done = forked("fit", "-c", write_config(tmp_path / "nan.yaml", config), status=1)
        assert "--model.init_args.gradient_clip_val 1" in done.stderr


def test_two_processes_predict_each_seed_once(forked: Command, tmp_path: Path, runs: Path) -> None:
    config = points_config("GAN", trainer__max_epochs=1, **{**TWO_PROCESSES, "data__init_args__predict_samples": 5})
    forked("fit", "-c", write_config(tmp_path / "two.yaml", config), "--then", "predict")
    assert table(Run.load(runs / "own/two/latest").path / "predictions")["seed"] == [0, 1, 2, 3, 4]
