"""The loop slots: who may stand in them, what they take over, and that every interruption leaves no trace."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch.utils.data import DataLoader, TensorDataset

import plcourse
from plcourse import Run, Trainer
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP
from plcourse.errors import Interrupted, UserError
from plcourse.runs.recorder import RunRecorder, TidyLogger
from plcourse.training.loops import EpochLoop, FitLoop, PredictLoop, TestLoop, ValidationLoop
from plcourse.training.run_checkpoint import RunCheckpoint
from plcourse.training.tracing import TracingFitLoop, TracingPredictLoop, TracingTestLoop, TracingValidationLoop
from trainers import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
]
BATCHES = 8  # training batches per epoch
BASES = {"fit_loop": FitLoop, "validate_loop": ValidationLoop, "test_loop": TestLoop, "predict_loop": PredictLoop}


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """An interrupted trainer leaves its handlers for a second signal; here the process goes on."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def trainer(**settings: Any) -> Trainer:
    small = {"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 2, "num_sanity_val_steps": 0}
    return quiet_trainer(**{**small, **settings})


def model() -> ImageClassifier:
    pl.seed_everything(3, verbose=False)
    return ImageClassifier(MLP(64, dropout=0.3))


def data() -> ImageData:
    return ImageData("digits", batch_size=32)


class OwnFit(FitLoop):
    pass


class OwnValidation(ValidationLoop):
    pass


class OwnTest(TestLoop):
    __test__ = False


class OwnPredict(PredictLoop):
    pass


class TestSlots:
    def test_each_slot_builds_the_class_it_is_given(self) -> None:
        own = trainer(
            fit_loop=OwnFit, validate_loop=OwnValidation, test_loop=OwnTest, predict_loop=lambda t: OwnPredict(t)
        )
        assert type(own.fit_loop) is OwnFit
        assert type(own.fit_loop.epoch_loop) is EpochLoop
        assert type(own.fit_loop.epoch_loop.val_loop) is OwnValidation
        assert type(own.validate_loop) is OwnValidation
        assert own.validate_loop is not own.fit_loop.epoch_loop.val_loop
        assert type(own.test_loop) is OwnTest
        assert type(own.predict_loop) is OwnPredict

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


class Modes(pl.Callback):
    """Notes for each stage how many batches ran, and with which autograd modes."""

    def __init__(self) -> None:
        self.batches: dict[str, int] = {}
        self.modes: dict[str, set[tuple[bool, bool]]] = {}

    def note(self, stage: str) -> None:
        self.batches[stage] = self.batches.get(stage, 0) + 1
        modes = self.modes.setdefault(stage, set())
        modes.add((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))

    def on_train_batch_start(self, *arguments: Any, **kwargs: Any) -> None:
        self.note("train")

    def on_validation_batch_start(self, trainer: pl.Trainer, *arguments: Any, **kwargs: Any) -> None:
        self.note("validate" if trainer.state.fn == "validate" else "validation in fit")

    def on_test_batch_start(self, *arguments: Any, **kwargs: Any) -> None:
        self.note("test")

    def on_predict_batch_start(self, *arguments: Any, **kwargs: Any) -> None:
        self.note("predict")


def run_all(own: Trainer) -> None:
    network, digits = model(), data()
    own.fit(network, digits)
    own.validate(network, digits, verbose=False)
    own.test(network, digits, verbose=False)
    own.predict(network, digits, return_predictions=False)


class TestTakenOver:
    @pytest.mark.parametrize("loop", [FitLoop, FitWithOwnEpochs])
    def test_epoch_and_step_limits(self, loop: type[FitLoop]) -> None:
        own = trainer(fit_loop=loop, min_epochs=2, max_epochs=5, min_steps=3, max_steps=7)
        assert (own.min_epochs, own.max_epochs, own.min_steps, own.max_steps) == (2, 5, 3, 7)
        own.fit(model(), data())
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
        run_all(trainer(fit_loop=loop, callbacks=[modes], inference_mode=inference_mode, **limits))
        assert modes.batches == {"train": 4, "validation in fit": 3, "validate": 3, "test": 2, "predict": 1}
        evaluated = {(False, inference_mode)}
        assert modes.modes == {
            "train": {(True, False)},
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
        own = trainer(**loops)
        run_all(own)
        assert modes == {
            "ValidationLoop in fit": False,
            "ValidationLoop in validate": False,
            "TestLoop in test": False,
            "PredictLoop in predict": False,
        }


def callers(calls: list[tuple[int, str]]) -> set[tuple[str | None, str]]:
    """The pairs (caller, called) of a trace."""
    stack: list[str] = []
    pairs: set[tuple[str | None, str]] = set()
    for depth, label in calls:
        del stack[depth:]
        pairs.add((stack[-1] if stack else None, label))
        stack.append(label)
    return pairs


TRACING = {
    "fit_loop": TracingFitLoop,
    "validate_loop": TracingValidationLoop,
    "test_loop": TracingTestLoop,
    "predict_loop": TracingPredictLoop,
}


class TestTracing:
    def test_a_traced_run_gives_the_weights_of_an_untraced_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        states = []
        for loops in ({}, TRACING):
            network = model()
            trainer(max_epochs=2, **loops).fit(network, data())
            states.append(network.state_dict())
        assert "\nFitLoop.run\n" in capsys.readouterr().out
        untraced, traced = states
        assert untraced.keys() == traced.keys()
        assert all(torch.equal(untraced[name], traced[name]) for name in untraced)

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
    def test_an_unsupported_lightning_is_one_clear_line(self, tmp_path: Path) -> None:
        version = "2.7.0"
        script = (
            "import sys, pytorch_lightning\n"
            f"pytorch_lightning.__version__ = '{version}'\n"
            "from plcourse.__main__ import main\n"
            "main(['fit', '-c', 'kfold/traced'])\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"plcourse: error: pytorch-lightning {version} is installed; ")
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


class StopAfter(pl.Callback):
    """Asks this run to end after so many batches, as the handler of SIGTERM does."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: Any, *arguments: Any, **kwargs: Any) -> None:
        self.batches -= 1
        if self.batches == 0:
            trainer.safe_point.stop_signal = signal.SIGTERM


def fit_run(
    run: Run, build: Callable[[], tuple[Any, ...]], resume: bool = False, stop: int = 0, **settings: Any
) -> dict[str, Any]:
    """A fit with its record, as the command line puts it together; returns all that training left behind."""
    pl.seed_everything(3, verbose=False)
    table = TidyLogger(run.path / "metrics.csv")
    callbacks = [RunCheckpoint("val/loss"), RunRecorder(run, table), *settings.pop("callbacks", [])]
    own = trainer(
        callbacks=[*callbacks, *([StopAfter(stop)] if stop else [])],
        logger=[table],
        default_root_dir=str(run.path),
        **{"max_epochs": 3, "limit_train_batches": BATCHES, "log_every_n_steps": 1, **settings},
    )
    network, *loaders = build()
    last = run.path / "checkpoints" / "last.ckpt"
    try:
        own.fit(network, *loaders, ckpt_path=last if resume else None, weights_only=True)
        assert not stop, "the run was to be interrupted"
    except Interrupted:
        assert stop
        assert last.is_file()
    table.finalize("")
    return {
        "weights": network.state_dict(),
        "optimizer": own.optimizers[0].state_dict(),
        "schedule": [config.scheduler.state_dict() for config in own.lr_scheduler_configs],
        "step": own.global_step,
        "epoch": own.current_epoch,
        "best": own.run_checkpoint.state_dict() if own.run_checkpoint else None,
        "table": (run.path / "metrics.csv").read_text(),
        "random": torch.get_rng_state(),
    }


def assert_equal(a: Any, b: Any, where: str = "run") -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}.{i}")
    else:
        assert a == b, where


def digits() -> tuple[Any, ...]:
    return model(), data()


class Plain(pl.LightningModule):
    """A module as users write them: nothing of this suite in it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))

    def loss(self, batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def plain() -> tuple[Any, ...]:
    features = torch.randn(BATCHES * 8, 4, generator=torch.Generator().manual_seed(0))
    samples = TensorDataset(features, (features.sum(1) > 0).long())
    pl.seed_everything(3, verbose=False)
    return Plain(), DataLoader(samples, 8, shuffle=True), DataLoader(samples, 8)


SETTINGS: dict[str, dict[str, Any]] = {
    "nothing special": {},
    "sanity check": {"num_sanity_val_steps": 2},
    "max_steps": {"max_steps": 2 * BATCHES + 3, "max_epochs": -1},
    "max_steps at an epoch's end": {"max_steps": 3 * BATCHES, "max_epochs": -1},
    "accumulation": {"accumulate_grad_batches": 2},
    "accumulation over the epoch's end": {"accumulate_grad_batches": 3},
    "validation in mid-epoch": {"val_check_interval": 0.5},
    "validation by batches": {"val_check_interval": 5, "check_val_every_n_epoch": None},
    "validation every other epoch": {"check_val_every_n_epoch": 2},
    "loaders made anew": {"reload_dataloaders_every_n_epochs": 1},
    "no validation": {"limit_val_batches": 0},
}


class TestInterrupted:
    @pytest.mark.parametrize("name", SETTINGS)
    def test_interrupted_and_resumed_ends_like_a_run_left_alone(self, tmp_path: Path, name: str) -> None:
        settings = SETTINGS[name]
        alone = fit_run(Run.create("own/alone", tmp_path, {}), digits, **settings)
        assert alone["table"].count("\n") > 10
        for stop in (3, BATCHES, BATCHES + 1, BATCHES + 4, 2 * BATCHES + 2):
            run = Run.create("own/stopped", tmp_path, {})
            fit_run(run, digits, stop=stop, **settings)
            resumed = fit_run(run, digits, resume=True, **settings)
            assert_equal(resumed, alone, f"stopped after {stop} batches")

    def test_interrupted_at_every_step_it_still_ends_like_a_run_left_alone(self, tmp_path: Path) -> None:
        alone = fit_run(Run.create("own/alone", tmp_path, {}), digits, max_epochs=2)
        run = Run.create("own/stopped", tmp_path, {})
        for batch in range(2 * BATCHES - 1):
            fit_run(run, digits, resume=batch > 0, stop=1, max_epochs=2)
        assert_equal(fit_run(run, digits, resume=True, max_epochs=2), alone)

    @pytest.mark.parametrize("settings", [{}, {"max_steps": 3 * BATCHES, "max_epochs": -1}, {"limit_val_batches": 0}])
    @pytest.mark.parametrize("epochs", [1, 2])
    def test_a_users_own_module_and_loader_interrupted_between_epochs(
        self, tmp_path: Path, settings: dict[str, Any], epochs: int
    ) -> None:
        alone = fit_run(Run.create("own/alone", tmp_path, {}), plain, **settings)
        run = Run.create("own/stopped", tmp_path, {})
        fit_run(run, plain, stop=epochs * BATCHES, **settings)
        assert_equal(fit_run(run, plain, resume=True, **settings), alone)

    def test_a_run_that_stopped_early_trains_no_further_when_resumed(self, tmp_path: Path) -> None:
        run = Run.create("own/early", tmp_path, {})

        def patient() -> dict[str, Any]:
            # no improvement counts: it stops after the second epoch
            return {"callbacks": [EarlyStopping("val/loss", patience=1, min_delta=1e9)], "max_epochs": 5}

        stopped = fit_run(run, digits, **patient())
        assert stopped["step"] == 2 * BATCHES
        resumed = fit_run(run, digits, resume=True, **patient())
        assert resumed["step"] == 2 * BATCHES
        assert_equal(resumed["weights"], stopped["weights"])
        assert resumed["table"] == stopped["table"]

    def test_the_patience_of_early_stopping_survives_an_interruption(self, tmp_path: Path) -> None:
        def patient() -> dict[str, Any]:
            return {"callbacks": [EarlyStopping("val/loss", patience=2, min_delta=1e9)], "max_epochs": 6}

        alone = fit_run(Run.create("own/alone", tmp_path, {}), digits, **patient())
        assert alone["step"] == 3 * BATCHES
        for stop in (BATCHES + 3, 2 * BATCHES, 2 * BATCHES + 3):
            run = Run.create("own/stopped", tmp_path, {})
            settings = patient()
            fit_run(run, digits, stop=stop, **settings)
            assert_equal(fit_run(run, digits, resume=True, **patient()), alone, f"stopped after {stop} batches")

    @pytest.mark.parametrize("every", [1, 3, 5])
    def test_the_table_holds_each_steps_own_loss(self, tmp_path: Path, every: int) -> None:
        losses: list[float] = []

        class Losses(pl.Callback):
            def on_train_batch_end(
                self, trainer: Any, pl_module: Any, outputs: Any, *arguments: Any, **kwargs: Any
            ) -> None:
                losses.append(float(outputs["loss"]))

        run = Run.create("own/losses", tmp_path, {})
        fit_run(run, digits, callbacks=[Losses()], log_every_n_steps=every)
        logged = {row["step"]: row["value"] for row in run.metrics if row["metric"] == "train/loss"}
        assert logged.keys() == set(range(every - 1, 3 * BATCHES, every))
        assert logged == {step: pytest.approx(losses[step], rel=1e-6) for step in logged}

    def test_a_table_with_gaps_is_the_same_after_an_interruption(self, tmp_path: Path) -> None:
        alone = fit_run(Run.create("own/alone", tmp_path, {}), digits, log_every_n_steps=3)
        run = Run.create("own/stopped", tmp_path, {})
        fit_run(run, digits, stop=BATCHES + 3, log_every_n_steps=3)
        assert_equal(fit_run(run, digits, resume=True, log_every_n_steps=3), alone)
