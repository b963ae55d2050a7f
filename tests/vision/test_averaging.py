"""The averages equal torch's own, are what is validated and saved, and disturb nothing."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, update_bn

from plcourse import Trainer
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import ResNet
from plcourse.errors import UserError
from plcourse.training.run_checkpoint import RunCheckpoint
from plcourse.vision.averaging import EMA, SWA, Averaging
from trainers import quiet_trainer

STEPS, EPOCHS = 5, 4  # of an epoch, and epochs


def data() -> ImageData:
    return ImageData("digits", batch_size=64, val_size=100, test_size=1377)


def model() -> ImageClassifier:
    torch.manual_seed(2)
    return ImageClassifier(ResNet(widths=[8, 16], groups=0, dropout=0.2), lr_scheduler=None)


class Watch(pl.Callback):
    """Keeps the live weights after every step, and what is in the model while it is validated."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []
        self.validated: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        self.steps.append(copied(pl_module))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        if not trainer.sanity_checking and args[1] == 0:
            self.validated.append(copied(pl_module))


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def fit(path: Path, *callbacks: pl.Callback, **settings: Any) -> tuple[Trainer, Watch, ImageClassifier]:
    """Trains for `EPOCHS` epochs of `STEPS` steps."""
    pl.seed_everything(1, verbose=False)
    watch, module = Watch(), model()
    keeper = RunCheckpoint(every_n_train_steps=2)
    arguments = {"max_epochs": EPOCHS, "log_every_n_steps": 1, "default_root_dir": path, **settings}
    trainer = quiet_trainer(callbacks=[*callbacks, keeper, watch], **arguments)
    trainer.fit(module, data())
    return trainer, watch, module


def reference(watch: Watch, taken: list[int], average_fn: Any = None) -> AveragedModel:
    """torch's own average of the weights after these steps, counted from 1."""
    live = model()
    found = AveragedModel(live, avg_fn=average_fn)
    for step in taken:
        live.load_state_dict(watch.steps[step - 1])
        found.update_parameters(live)
    return found


def parameters(module: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: state[name] for name, _ in module.named_parameters()}


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("callback", "taken", "average_fn"),
    [
        (SWA(start=0.4), [10, 15, 20], None),
        (SWA(start=0.5, every_n_steps=4), [14, 18], None),
        (EMA(start=0.3, decay=0.8), list(range(7, 21)), get_ema_avg_fn(0.8)),
    ],
    ids=["swa", "swa_every", "ema"],
)
def test_the_average_is_torchs_own(tmp_path: Path, callback: Averaging, taken: list[int], average_fn: Any) -> None:
    trainer, watch, module = fit(tmp_path, callback)
    assert len(watch.steps) == STEPS * EPOCHS
    expected = reference(watch, taken, average_fn)
    assert callback.n_averaged == len(taken)
    assert_close(dict(module.named_parameters()), dict(expected.module.named_parameters()))
    # and its statistics are those of torch's pass over the training data
    loader: Any = trainer.train_dataloader
    again = loader.with_plan(loader.plan)
    again.set_epoch(EPOCHS - 1)
    update_bn((batch["image"] for batch in again), expected.module)
    statistics = {name: value for name, value in expected.module.named_buffers() if "running" in name}
    own = dict(module.named_buffers())
    assert len(statistics) > 4
    assert_close({name: own[name] for name in statistics}, statistics)


def test_validation_uses_the_live_weights_and_then_the_newest_average(tmp_path: Path) -> None:
    _, watch, module = fit(tmp_path, SWA(start=0.5))
    for epoch in (0, 1):
        assert_close(watch.validated[epoch], watch.steps[STEPS * (epoch + 1) - 1], 0)
    for epoch, taken in ((2, [15]), (3, [15, 20])):
        expected = reference(watch, taken).module.state_dict()
        assert_close(parameters(module, watch.validated[epoch]), parameters(module, expected))


def test_a_start_in_mid_epoch_never_validates_or_saves_the_initial_weights(tmp_path: Path) -> None:
    """Lightning's own callback validates them (its issue 21724)."""
    initial = copied(model())
    _, watch, _ = fit(tmp_path, EMA(start=0.9))
    for state in watch.validated:
        assert not torch.equal(state["network.head.weight"], initial["network.head.weight"])
    assert_close(watch.validated[1], watch.steps[2 * STEPS - 1], 0)
    saved = torch.load(tmp_path / "checkpoints" / "previous.ckpt", weights_only=True)
    assert saved["averaging_state"]["n_averaged"] == 0
    assert_close(saved["state_dict"], watch.steps[17], 0)


@pytest.mark.medium
@pytest.mark.parametrize("callback", [SWA(start=0.2), EMA(start=0.2)], ids=["swa", "ema"])
def test_averaging_changes_no_bit_of_the_training(tmp_path: Path, callback: Averaging) -> None:
    _, plain, _ = fit(tmp_path / "plain")
    _, averaged, _ = fit(tmp_path / "averaged", callback)
    for a, b in zip(plain.steps, averaged.steps, strict=True):
        assert_close(a, b, 0)


def test_a_checkpoint_holds_both_weights_and_evaluation_loads_the_requested_ones(tmp_path: Path) -> None:
    swa = SWA(start=0.4)
    trainer, watch, module = fit(tmp_path, swa)
    averaged = copied(module)
    path = tmp_path / "checkpoints" / "last.ckpt"
    for weights in ("averaged", "unrefreshed", "raw"):
        swa.weights = weights  # after the fit, in the same trainer: Lightning's would put the live weights there
        trainer.test(module, data(), ckpt_path=path, weights_only=True, verbose=False)
        state = copied(module)
        raw = watch.steps[-1]
        expected = {"averaged": averaged, "raw": raw, "unrefreshed": {**raw, **parameters(module, averaged)}}[weights]
        assert_close(state, expected, 0)
    trainer.validate(module, data(), ckpt_path=path, weights_only=True, verbose=False)
    assert_close(copied(module), watch.steps[-1], 0)  # the last that was asked for; nothing is swapped


def test_a_run_without_averaging_has_one_set_of_weights(tmp_path: Path) -> None:
    trainer, _, module = fit(tmp_path, max_epochs=1)
    trainer.callbacks.append(SWA(weights="raw"))
    with pytest.raises(UserError, match="weights='raw' needs a run with averaging"):
        trainer.test(module, data(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True, verbose=False)


def test_the_last_average_is_refreshed_without_a_validation(tmp_path: Path) -> None:
    fit(tmp_path / "with", SWA(start=0.4))
    fit(tmp_path / "without", SWA(start=0.4), limit_val_batches=0)
    with_, without = (
        torch.load(tmp_path / n / "checkpoints/last.ckpt", weights_only=True) for n in ("with", "without")
    )
    assert without["averaging_state"]["fresh"]
    assert_close(with_["state_dict"], without["state_dict"], 0)


def test_weights_are_averaged_once_per_optimizer_step(tmp_path: Path) -> None:
    ema = EMA(start=0.0)
    fit(tmp_path, ema, accumulate_grad_batches=2)
    assert ema.n_averaged == 3 * EPOCHS


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SWA(start=2), "start=2 is not a fraction"),
        (lambda: SWA(every_n_steps=0), "every_n_steps=0 is below 1"),
        (lambda: EMA(decay=1.0), "decay=1.0 is not above 0 and below 1"),
        (lambda: EMA(refresh_batches=0), "refresh_batches=0 is below 1"),
    ],
    ids=["start", "every", "decay", "batches"],
)
def test_arguments_out_of_range(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()
