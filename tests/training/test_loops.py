"""The loop slots: which loops they accept, which settings of the Trainer apply to them, and how they are traced."""

import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback

import plcourse
from plcourse import Trainer
from plcourse.errors import UserError
from plcourse.training.loops import EpochLoop, FitLoop, PredictLoop, TestLoop, ValidationLoop
from plcourse.training.tracing import TracingFitLoop, TracingPredictLoop, TracingTestLoop, TracingValidationLoop
from support import assert_equal
from trainers import SMALL_DATA, digits
from trainers import short_trainer as trainer

pytestmark = SMALL_DATA
BASES = {"fit_loop": FitLoop, "validate_loop": ValidationLoop, "test_loop": TestLoop, "predict_loop": PredictLoop}


class TestSlots:
    def test_each_slot_builds_the_class_it_is_given(self) -> None:
        kinds = {slot: type(f"Own{base.__name__}", (base,), {"__test__": False}) for slot, base in BASES.items()}
        own = trainer(**{**kinds, "predict_loop": lambda trainer: kinds["predict_loop"](trainer)})
        assert {slot: type(getattr(own, slot)) for slot in BASES} == kinds
        assert type(own.fit_loop.epoch_loop) is EpochLoop
        assert type(own.fit_loop.epoch_loop.val_loop) is kinds["validate_loop"]
        assert own.validate_loop is not own.fit_loop.epoch_loop.val_loop

    def test_empty_slots_hold_the_public_bases(self) -> None:
        plain = trainer()
        assert {slot: type(getattr(plain, slot)) for slot in BASES} == BASES
        assert type(plain.fit_loop.epoch_loop.val_loop) is ValidationLoop

    @pytest.mark.parametrize("slot", BASES)
    @pytest.mark.parametrize("loop", [*BASES.values(), type(pl.Trainer(accelerator="cpu", logger=False).fit_loop)])
    def test_a_slot_takes_loops_of_its_own_stage_only(self, slot: str, loop: type) -> None:
        if loop is BASES[slot]:
            assert type(getattr(trainer(**{slot: loop}), slot)) is loop
            return
        with pytest.raises(UserError) as caught:
            trainer(**{slot: loop})
        assert str(caught.value) == (
            f"trainer.{slot} is a {loop.__name__}; it takes a {BASES[slot].__name__} or a class derived from it"
        )


class OwnEpochs(EpochLoop):
    """An epoch loop of a user's own."""


class FitWithOwnEpochs(FitLoop):
    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer)
        self.epoch_loop = OwnEpochs(trainer)


class Modes:
    """Notes for each stage how many batches ran, and with which autograd modes (gradients, inference mode)."""

    def __init__(self) -> None:
        self.batches: Counter[str] = Counter()
        self.modes: dict[str, set[tuple[bool, bool]]] = defaultdict(set)
        stages = ("train", "validation", "test", "predict")
        self.callback = LambdaCallback(**{f"on_{stage}_batch_start": self.note for stage in stages})

    def note(self, trainer: pl.Trainer, *args: object) -> None:
        stage = str(trainer.state.fn.value if trainer.state.fn else None)
        stage = "validation in fit" if stage == "fit" and trainer.validating else stage
        self.batches[stage] += 1
        self.modes[stage].add((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))


def run_all(own: Trainer) -> None:
    model, data = digits()
    own.fit(model, data)
    own.validate(model, data, verbose=False)
    own.test(model, data, verbose=False)
    own.predict(model, data, return_predictions=False)


class TestTakenOver:
    @pytest.mark.parametrize("loop", [FitLoop, FitWithOwnEpochs])
    def test_epoch_and_step_limits(self, loop: type[FitLoop]) -> None:
        own = trainer(fit_loop=loop, min_epochs=2, max_epochs=5, min_steps=3, max_steps=7)
        assert (own.min_epochs, own.max_epochs, own.min_steps, own.max_steps) == (2, 5, 3, 7)
        own.fit(*digits())
        assert own.global_step == 7
        assert own.fit_loop.epoch_progress.current.ready == 3

    def test_lightnings_defaults_of_the_limits(self) -> None:
        ours, stock = trainer(max_steps=9, max_epochs=None), pl.Trainer(max_steps=9, logger=False, accelerator="cpu")
        for name in ("min_epochs", "max_epochs", "min_steps", "max_steps"):
            assert getattr(ours, name) == getattr(stock, name), name

    @pytest.mark.parametrize("loop", [FitLoop, FitWithOwnEpochs])
    @pytest.mark.parametrize("inference_mode", [True, False])
    def test_batch_limits_and_inference_mode(self, loop: type[FitLoop], inference_mode: bool) -> None:
        modes = Modes()
        limits = {"limit_train_batches": 4, "limit_val_batches": 3, "limit_test_batches": 2, "limit_predict_batches": 1}
        run_all(trainer(fit_loop=loop, callbacks=[modes.callback], inference_mode=inference_mode, **limits))
        assert modes.batches == {"fit": 4, "validation in fit": 3, "validate": 3, "test": 2, "predict": 1}
        evaluated = {(False, inference_mode)}
        assert modes.modes == {
            "fit": {(True, False)},
            "validation in fit": {(False, False)},  # inference tensors would be left in metrics and buffers
            "validate": evaluated,
            "test": evaluated,
            "predict": evaluated,
        }

    def test_a_loop_that_replaces_run_still_computes_no_gradients(self) -> None:
        modes: dict[str, bool] = {}

        def noting(base: type) -> type:
            def run(self: Any) -> None:
                modes[f"{base.__name__} in {self.trainer.state.fn.value}"] = torch.is_grad_enabled()

            return type("Own", (base,), {"run": run, "__test__": False})

        loops = {slot: noting(base) for slot, base in BASES.items() if slot != "fit_loop"}
        run_all(trainer(**loops))
        stages = ("ValidationLoop in fit", "ValidationLoop in validate", "TestLoop in test", "PredictLoop in predict")
        assert modes == dict.fromkeys(stages, False)


def callers(calls: list[tuple[int, str]]) -> set[tuple[str | None, str]]:
    """The pairs (caller, called) of a trace."""
    stack: list[str] = []
    pairs: set[tuple[str | None, str]] = set()
    for depth, label in calls:
        del stack[depth:]
        pairs.add((stack[-1] if stack else None, label))
        stack.append(label)
    return pairs


TRACING = dict(zip(BASES, (TracingFitLoop, TracingValidationLoop, TracingTestLoop, TracingPredictLoop), strict=True))


class TestTracing:
    def test_a_traced_run_gives_the_weights_of_an_untraced_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        states = []
        for loops in ({}, TRACING):
            model, data = digits()
            trainer(max_epochs=2, **loops).fit(model, data)
            states.append(model.state_dict())
        assert "\nFitLoop.run\n" in capsys.readouterr().out
        assert_equal(states[0], states[1], "weights")

    def test_the_trace_shows_which_loop_called_what(self, capsys: pytest.CaptureFixture[str]) -> None:
        own: Any = trainer(**TRACING)
        run_all(own)
        calls = own.trace.calls
        assert all(after - before <= 1 for (before, _), (after, _) in pairwise(calls))
        assert {
            (None, "FitLoop.run"),
            ("FitLoop.run", "FitLoop.setup_data"),
            ("FitLoop.run", "FitLoop.reset"),
            ("FitLoop.run", "FitLoop.on_run_start"),
            ("FitLoop.run", "FitLoop.on_advance_start"),
            ("FitLoop.run", "FitLoop.advance"),
            ("FitLoop.advance", "EpochLoop.run"),
            ("EpochLoop.run", "EpochLoop.advance"),
            ("EpochLoop.run", "EpochLoop.on_advance_end"),
            ("EpochLoop.on_advance_end", "ValidationLoop.run"),
            ("ValidationLoop.run", "ValidationLoop.reset"),
            ("FitLoop.run", "FitLoop.on_advance_end"),
            ("FitLoop.run", "FitLoop.on_run_end"),
            (None, "ValidationLoop.run"),
            (None, "TestLoop.run"),
            ("TestLoop.run", "TestLoop.on_run_end"),
            (None, "PredictLoop.run"),
        } <= callers(calls)
        labels = [label for _, label in calls]
        assert labels.count("EpochLoop.advance") == 3
        assert labels.count("ValidationLoop.run") == 2
        printed = capsys.readouterr().out.splitlines()
        assert printed == ["  " * depth + label for depth, label in calls[:60]]


class TestVersions:
    @pytest.mark.medium
    def test_an_unsupported_lightning_is_one_clear_line(self, tmp_path: Path) -> None:
        script = (
            "import pytorch_lightning; pytorch_lightning.__version__ = '2.7.0'\n"
            "from plcourse.__main__ import main; main(['fit', '-c', 'kfold/traced'])\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("plcourse: error: pytorch-lightning 2.7.0 is installed; ")
        assert "pip install 'pytorch-lightning>=2.6,<2.7'" in done.stderr
        assert "Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_lightnings_own_loops_are_imported_in_the_three_files_of_loops(self) -> None:
        package = Path(plcourse.__file__).parent
        protected = re.compile(r"pytorch_lightning\.loops|\b_(Fit|TrainingEpoch|Evaluation|Prediction)Loop\b")
        files = sorted(package.rglob("*.py"))
        assert len(files) > 30
        found = [path.relative_to(package).as_posix() for path in files if protected.search(path.read_text())]
        assert found == [f"training/{name}.py" for name in ("evaluation_loops", "fast_path", "loops")]
