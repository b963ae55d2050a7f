"""Which checkpoints are kept and when they are saved."""

import contextlib
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback
from torch.utils.data import DataLoader, TensorDataset

from checkpoint_files import FORK, content, one_line, run_script
from plcourse import Trainer
from plcourse.errors import RunFailed, UserError
from plcourse.training.checkpoint import AtomicCheckpointIO, load, verify
from plcourse.training.run_checkpoint import RunCheckpoint
from trainers import SMALL_DATA, quiet_trainer

pytestmark = SMALL_DATA
STEPS = 4  # optimizer steps per epoch of the fits below


class Scripted(pl.LightningModule):
    """Logs the given validation scores, one per epoch, independently of its weights."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.layer, self.scores = torch.nn.Linear(2, 1), scores

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/score", self.scores[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(
    folder: Path,
    scores: list[float],
    callback: RunCheckpoint,
    on_save: Callable[[pl.Trainer], object] = lambda trainer: None,
    ckpt_path: Path | None = None,
    **settings: Any,
) -> Trainer:
    pl.seed_everything(1, verbose=False)
    callbacks = [callback, LambdaCallback(on_save_checkpoint=lambda trainer, *_: on_save(trainer))]
    settings = {"max_epochs": len(scores), **settings}
    trainer = quiet_trainer(default_root_dir=str(folder), callbacks=callbacks, **settings)
    data = DataLoader(TensorDataset(torch.ones(STEPS, 2)))
    trainer.fit(Scripted(scores), data, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def saves(*arguments: Any, **settings: Any) -> list[int]:
    """The steps at which a fit saves checkpoints."""
    steps: list[int] = []
    fit(*arguments, on_save=lambda trainer: steps.append(trainer.global_step), **settings)
    return steps


def steps_of(folder: Path) -> dict[str, int]:
    """The optimizer step of each checkpoint, all of which load without code."""
    files = sorted((folder / "checkpoints").glob("*.ckpt"))
    assert files
    assert all(verify(path) for path in files)
    return {path.stem: torch.load(path, weights_only=True)["global_step"] for path in files}


class TestPolicy:
    @pytest.mark.parametrize(("mode", "best", "previous"), [("max", 3, 3), ("min", 2, 2)])
    def test_best_last_and_previous_after_a_fit(self, tmp_path: Path, mode: Any, best: int, previous: int) -> None:
        callback = RunCheckpoint("val/score", mode)
        fit(tmp_path, [0.5, 0.2, 0.9, 0.4], callback)
        assert steps_of(tmp_path) == {"best": best * STEPS, "last": 4 * STEPS, "previous": previous * STEPS}
        assert callback.best_model_score == pytest.approx({"max": 0.9, "min": 0.2}[mode])
        assert (callback.best_step, callback.best_epoch) == (best * STEPS, best - 1)
        assert callback.best_model_path == str(tmp_path / "checkpoints" / "best.ckpt")
        assert callback.last_model_path == str(tmp_path / "checkpoints" / "last.ckpt")

    def test_an_equal_score_is_no_better_one(self, tmp_path: Path) -> None:
        fit(tmp_path, [0.5, 0.5, 0.5], RunCheckpoint("val/score", "max"))
        assert steps_of(tmp_path)["best"] == STEPS

    def test_every_n_train_steps(self, tmp_path: Path) -> None:
        callback = RunCheckpoint("val/score", "min", every_n_train_steps=3)
        # every third step; the best epoch's end, step 4; the last epoch's end, step 12
        assert saves(tmp_path, [0.5, 0.6, 0.7], callback) == [3, 4, 6, 9, 12]

    def test_every_n_train_steps_counts_optimizer_steps_once(self, tmp_path: Path) -> None:
        callback = RunCheckpoint("val/score", "min", every_n_train_steps=1)
        assert saves(tmp_path, [0.5], callback, accumulate_grad_batches=2) == [1, 2]

    @pytest.mark.parametrize("name", ["every_n_epochs", "every_n_train_steps"])
    @pytest.mark.parametrize("value", [0, -1])
    def test_an_interval_below_one_is_refused(self, name: str, value: int) -> None:
        with pytest.raises(ValueError, match=f"^{name} is {value}; it must be 1 or more$"):
            RunCheckpoint(**cast(Any, {name: value}))

    def test_a_metric_that_is_never_logged_is_named_with_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(UserError) as caught:
            fit(tmp_path, [0.5], RunCheckpoint("val/scor", "max"))
        assert "'val/scor' is never logged; did you mean 'val/score'?" in one_line(caught.value)

    def test_without_a_metric_the_last_is_the_best(self, tmp_path: Path) -> None:
        fit(tmp_path, [0.9, 0.5, 0.7], RunCheckpoint(every_n_train_steps=3))
        assert steps_of(tmp_path) == {"best": 3 * STEPS, "last": 3 * STEPS, "previous": 9}

    def test_a_run_without_validation_keeps_its_last_state_as_best(self, tmp_path: Path) -> None:
        callback = RunCheckpoint("val/score", "max", every_n_train_steps=3)
        fit(tmp_path, [0.5, 0.6], callback, limit_val_batches=0)
        assert callback.best_model_score is None
        steps = steps_of(tmp_path)
        assert steps["last"] == 2 * STEPS
        assert steps["best"] == steps["last"]

    def test_a_score_that_is_not_a_number_is_never_the_best(self, tmp_path: Path) -> None:
        callback = RunCheckpoint("val/score", "max")
        fit(tmp_path, [math.nan, 0.5, math.nan], callback)
        assert callback.best_model_score == 0.5
        assert steps_of(tmp_path)["best"] == 2 * STEPS

    def test_the_best_survives_a_resume(self, tmp_path: Path) -> None:
        fit(tmp_path, [0.1, 0.9], RunCheckpoint("val/score", "max"))
        callback = RunCheckpoint("val/score", "max")
        last = tmp_path / "checkpoints" / "last.ckpt"
        trainer = fit(tmp_path, [0.1, 0.9, 0.3, 0.4], callback, ckpt_path=last)
        assert trainer.global_step == 4 * STEPS
        assert (callback.best_model_score, callback.best_epoch) == (pytest.approx(0.9), 1)
        assert steps_of(tmp_path) == {"best": 2 * STEPS, "last": 4 * STEPS, "previous": 2 * STEPS}

    def test_a_fit_that_max_steps_ends_has_its_last_step_in_last_ckpt(self, tmp_path: Path) -> None:
        trainer = fit(tmp_path, [0.5, 0.6], RunCheckpoint("val/score", "min"), max_steps=STEPS + 2, max_epochs=-1)
        assert trainer.global_step == STEPS + 2
        assert steps_of(tmp_path)["last"] == STEPS + 2

    def test_a_damaged_last_checkpoint_does_not_take_the_place_of_the_good_previous_one(self, tmp_path: Path) -> None:
        fit(tmp_path, [0.5, 0.6], RunCheckpoint("val/score", "max"))
        last, previous = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
        last.write_bytes(last.read_bytes()[:-1])
        good: list[bool] = []  # a kill while saving would leave nothing else to go on from
        callback = RunCheckpoint("val/score", "max")
        fit(tmp_path, [0.5, 0.6, 0.7], callback, lambda trainer: good.append(verify(previous)), ckpt_path=previous)
        assert good
        assert all(good)

    @pytest.mark.medium
    def test_killed_between_last_and_best_the_best_is_made_good_on_resume(self, tmp_path: Path) -> None:
        script = """
            from training.test_checkpoint_policy import RunCheckpoint, fit, steps_of
            from plcourse.training import run_checkpoint
            folder = Path(sys.argv[1])
            scores = [0.1, 0.9, 0.5]
            def dies():
                original = run_checkpoint.link
                def link(source, target):
                    if target.name == "best.ckpt" and value_of_best.best_model_score > 0.8:
                        os.kill(os.getpid(), signal.SIGKILL)
                    original(source, target)
                run_checkpoint.link = link
                fit(folder, scores, value_of_best)
            value_of_best = RunCheckpoint("val/score", "max")
            killed(dies)
            fit(folder, scores, RunCheckpoint("val/score", "max"), ckpt_path=folder / "checkpoints" / "last.ckpt")
            print(steps_of(folder)["best"])
        """
        head = "import warnings; warnings.simplefilter('ignore')\nsys.path.insert(0, os.getcwd())\n"
        script = FORK + head + textwrap.dedent(script)
        assert int(run_script(script, tmp_path).split()[-1]) == 2 * STEPS

    def test_a_checkpoint_that_could_not_be_loaded_again_is_not_passed_off_as_one(self, tmp_path: Path) -> None:
        checkpoint = {**content(1.0), "hyper_parameters": {"root": tmp_path}}  # a path is no plain type
        with contextlib.suppress(RunFailed, UserError):
            AtomicCheckpointIO().save_checkpoint(checkpoint, tmp_path / "last.ckpt")
        if (tmp_path / "last.ckpt").exists():
            assert load(tmp_path / "last.ckpt")["epoch"] == 3
