"""The members of an ensemble, their disagreement, and the uncertainties computed from it."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pytorch_lightning.core.module import _jit_is_scripting
from torch import nn

from plcourse.data import RandomFlip
from plcourse.ddp.networks import MLP
from plcourse.errors import UserError
from plcourse.evaluation.members import embedding_of, find_checkpoints, load_members
from plcourse.evaluation.model import Classifier
from plcourse.evaluation.uncertainty import Ensemble, decompose, dropout_on
from plcourse.export.formats import known_warnings_aside
from plcourse.training.checkpoint import AtomicCheckpointIO
from plcourse.training.exportable import standing_in

B, K = 6, 3


def probabilities(members: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(members, B, K, generator=draw, dtype=torch.float64).softmax(dim=-1)


def mlp(seed: int = 0, dropout: float = 0.0) -> MLP:
    torch.manual_seed(seed)
    return MLP(in_features=16, num_classes=K, hidden=(8,), dropout=dropout)


def batch(n: int = B) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(3)
    image = torch.rand(n, 1, 4, 4, generator=draw)
    return {"image": image, "id": [f"i{i}" for i in range(n)], "label": torch.zeros(n, dtype=torch.long)}


class TestDecomposition:
    def test_total_is_the_sum(self) -> None:
        found = decompose(probabilities(5))
        torch.testing.assert_close(found["total"], found["aleatoric"] + found["epistemic"])
        assert (found["epistemic"] > 0).all()

    def test_members_that_agree_leave_only_the_noise_of_the_data(self) -> None:
        one = probabilities(1)
        found = decompose(one.expand(4, B, K))
        assert found["epistemic"].max() < 1e-12
        torch.testing.assert_close(found["aleatoric"], -(one[0] * one[0].log()).sum(dim=-1))

    def test_certain_members_that_contradict_each_other_leave_only_ignorance(self) -> None:
        certain = torch.eye(K, dtype=torch.float64)[:, None].expand(K, B, K)
        found = decompose(certain)
        assert found["aleatoric"].max() == 0
        torch.testing.assert_close(
            found["epistemic"], torch.full((B,), float(torch.tensor(K).log()), dtype=torch.float64)
        )


class TestForward:
    def test_an_ensemble_answers_with_its_members_mean_probability(self) -> None:
        model = Classifier(Ensemble(mlp(), members=3), num_classes=K).eval()
        opinions = model.opinions(batch())
        assert opinions.shape == (3, B, K)
        torch.testing.assert_close(model(batch()["image"]).softmax(dim=-1), opinions.mean(dim=0))

    @pytest.mark.medium
    def test_it_compiles_to_torchscript(self) -> None:
        model = Classifier(Ensemble(mlp(), members=2), num_classes=K).eval()
        with known_warnings_aside(), _jit_is_scripting():
            program = torch.jit.script(model)
        torch.testing.assert_close(program(batch()["image"]), model(batch()["image"]))

    @pytest.mark.parametrize("options", [{}, {"mc_samples": 4}, {"tta": [RandomFlip()], "tta_views": 2}])
    def test_only_the_replacement_of_forward_is_called(self, options: dict[str, Any]) -> None:
        """Otherwise the test of an exported file would score the trained network, and verify nothing."""
        scores = torch.randn(B, K)
        model = Classifier(mlp(dropout=0.5), num_classes=K, **options).eval()
        with standing_in(model, lambda image: scores):
            found = model.test_step(batch(), 0)
        torch.testing.assert_close(found["probability"], scores.softmax(dim=-1))
        assert "epistemic" not in found


class TestDropout:
    def test_masks_depend_on_the_seed_alone_and_disturb_nothing(self) -> None:
        network, x = mlp(dropout=0.5).eval(), batch()["image"]
        before = torch.get_rng_state()
        outputs = []
        for seed in (1, 2, 1):
            torch.rand(seed)
            state = torch.get_rng_state()
            with dropout_on(network, seed):
                outputs.append(network(x))
            assert torch.equal(torch.get_rng_state(), state)
        torch.set_rng_state(before)
        assert torch.equal(outputs[0], outputs[2])
        assert not torch.equal(outputs[0], outputs[1])
        assert not any(layer.training for layer in network.modules())

    def test_a_network_without_dropout_is_refused(self) -> None:
        with pytest.raises(ValueError, match="has no dropout; give it some"), dropout_on(mlp(), 0):
            pass

    def test_samples_of_a_batch_do_not_depend_on_what_came_before(self) -> None:
        model = Classifier(mlp(dropout=0.5), K, mc_samples=7).eval()
        first = model.predict_step(batch(), 0)
        model.predict_step(batch(3), 1)
        again = model.predict_step(batch(), 2)
        assert torch.equal(first["probability"], again["probability"])
        assert model.opinions(batch()).shape == (7, B, K)
        assert (first["epistemic"] > 0).all()


class TestEnsemble:
    def test_members_start_apart_and_learn_as_they_would_alone(self) -> None:
        torch.manual_seed(0)
        model = Classifier(Ensemble(mlp(), members=3), K)
        networks: Any = list(cast(Any, model.network).networks)
        assert not torch.equal(networks[0].layers[1].weight, networks[1].layers[1].weight)
        model.trainer = cast(Any, _FakeTrainer())
        model.training_step(batch(), 0).backward()
        for network in networks:
            together = [parameter.grad.clone() for parameter in network.parameters()]
            network.zero_grad()
            nn.functional.cross_entropy(network(batch()["image"]), batch()["label"]).backward()
            for a, b in zip(together, network.parameters(), strict=True):
                torch.testing.assert_close(a, b.grad)

    def test_too_few_members_or_weights_that_cannot_be_drawn(self) -> None:
        with pytest.raises(ValueError, match="members=1: give 2 or more"):
            Ensemble(mlp(), members=1)
        stubborn = nn.Sequential(nn.Linear(2, 2), nn.PReLU())
        stubborn.register_module("own", _Own())
        with pytest.raises(ValueError, match=r"layer 'own' \(_Own\) has no reset_parameters"):
            Ensemble(stubborn)


class _Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class _FakeTrainer:
    log_every_n_steps = 0


class TestCheckpoints:
    @pytest.fixture
    def folds(self, tmp_path: Path) -> Path:
        """Three folds as a cross-validation leaves them, the last with the weights of the second."""
        for fold, seed in enumerate((1, 2, 2)):
            states = {f"network.{name}": value for name, value in mlp(seed).state_dict().items()}
            path = tmp_path / "run" / "folds" / str(fold) / "checkpoints" / "best.ckpt"
            AtomicCheckpointIO().save_checkpoint({"state_dict": states}, path)
        (tmp_path / "run" / "folds" / "latest").symlink_to("2")
        return tmp_path / "run" / "folds"

    def test_folds_are_averaged_with_the_network(self, folds: Path) -> None:
        model = Classifier(mlp(0), K, ensemble=[f"{folds}/*"]).eval()
        assert len(model.ensemble) == 3  # the link is not a fourth
        model.on_predict_start()
        x = batch()["image"]
        expected = torch.stack([mlp(seed)(x).softmax(dim=-1) for seed in (0, 1, 2, 2)])
        torch.testing.assert_close(model.predict_step(batch(), 0)["probability"], expected.mean(dim=0))
        assert set(model.state_dict()) == set(Classifier(mlp(0), K).state_dict())

    def test_the_network_itself_is_not_counted_twice(self, folds: Path) -> None:
        found = find_checkpoints([str(folds / "0"), str(folds / "1" / "checkpoints" / "best.ckpt")])
        assert len(load_members(mlp(0), found)) == 2
        assert len(load_members(mlp(1), found)) == 1

    def test_a_folder_is_taken_by_its_name_before_it_is_a_pattern(self, folds: Path, tmp_path: Path) -> None:
        for name in ("run[1]", "run1"):
            (tmp_path / name / "checkpoints").mkdir(parents=True)
            (tmp_path / name / "checkpoints/best.ckpt").touch()
        assert find_checkpoints([f"{tmp_path}/run[1]"]) == [f"{tmp_path}/run[1]/checkpoints/best.ckpt"]
        assert find_checkpoints([f"{tmp_path}/run[12]"]) == [f"{tmp_path}/run1/checkpoints/best.ckpt"]

    def test_a_pattern_without_checkpoints_and_another_network_are_refused(self, folds: Path) -> None:
        with pytest.raises(UserError, match=r"'nowhere/\*' matches no checkpoint"):
            find_checkpoints(["nowhere/*"])
        other = MLP(in_features=16, num_classes=K, hidden=(9,))
        with pytest.raises(UserError, match="does not fit the configured network, MLP"):
            load_members(other, find_checkpoints([str(folds / "0")]))


def test_views_that_change_nothing_change_nothing() -> None:
    plain, viewed = Classifier(mlp(), K).eval(), Classifier(mlp(), K, tta=[RandomFlip(p=0.0)], tta_views=3).eval()
    expected = plain.predict_step(batch(), 0)["probability"]
    torch.testing.assert_close(viewed.predict_step(batch(), 0)["probability"], expected)
    flipped = Classifier(mlp(), K, tta=[RandomFlip(p=1.0)], tta_views=1).eval()
    x = batch()["image"]
    both = (mlp()(x).softmax(dim=-1) + mlp()(x.flip(3)).softmax(dim=-1)) / 2
    torch.testing.assert_close(flipped.predict_step(batch(), 0)["probability"], both)


def test_rows_of_features_take_no_views() -> None:
    model = Classifier(mlp(), K, tta=[RandomFlip()]).eval()
    with pytest.raises(UserError, match="tta is for images"):
        model.predict_step({"features": torch.rand(B, 16), "id": ["a"] * B}, 0)


def test_an_embedding_is_what_the_last_layer_sees() -> None:
    model = Classifier(mlp(), K, embedding=True).eval()
    found = model.predict_step(batch(), 0)
    last = cast(Any, model.network).layers[-1]
    assert found["embedding"].shape == (B, 8)
    torch.testing.assert_close(last(found["embedding"]).softmax(dim=-1), found["probability"])
    with pytest.raises(UserError, match="has no linear layer"):
        embedding_of(nn.Flatten(), batch()["image"])
