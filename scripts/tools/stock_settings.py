"""The settings that `compare_with_stock.py` tries with Lightning's CLI and with the suite's."""

from dataclasses import dataclass, field
from typing import Any

_TORCH = "torch.optim."
_SCHEDULES = "torch.optim.lr_scheduler."
_LIGHTNING = "pytorch_lightning."
_EARLY = {"monitor": "val/loss", "patience": 0, "min_delta": 1e9}  # no improvement counts


def part(path: str, **arguments: Any) -> dict[str, Any]:
    """Returns the entry of a config that builds a class."""
    return {"class_path": path, "init_args": arguments}


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    """Returns the entry of a callback of Lightning."""
    return part(f"{_LIGHTNING}callbacks.{name}", **arguments)


KEPT = part("stock_parts.Kept")


@dataclass(frozen=True)
class Setting:
    """A config that differs from the plain one of `compare_with_stock.py` in a few settings.

    Args:
        group: the kind of the settings.
        name: how the table names it.
        trainer: settings of the Trainer.
        model: the arguments of `stock_parts.Net`, or another class with its arguments.
        data: the arguments of `stock_parts.Batches`, or another class with its arguments.
        tuned: whether the stock run gets the settings that the suite's run found, in place of the callback.
        counts: whether ``global_step`` is compared; not for modules with several optimizers, whose steps Lightning
            counts together and the suite once per batch.
    """

    group: str
    name: str
    trainer: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    tuned: bool = False
    counts: bool = True


def _said(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in arguments.items())


def _arguments() -> list[Setting]:
    """Arguments of the Trainer."""
    early = {"callbacks": [callback("EarlyStopping", **_EARLY)]}
    plain: list[dict[str, Any]] = [
        {"max_epochs": 3},
        {"max_epochs": 1},
        {"accumulate_grad_batches": 2},
        {"accumulate_grad_batches": 3},
        {"accumulate_grad_batches": 20},
        {"gradient_clip_val": 0.5},
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "norm"},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"gradient_clip_val": 0.2, "accumulate_grad_batches": 2},
        {"precision": "32-true"},
        {"precision": "64-true"},
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
        {"precision": "bf16-mixed", "gradient_clip_val": 0.1},
        {"limit_train_batches": 4},
        {"limit_train_batches": 0.5},
        {"limit_val_batches": 1},
        {"limit_val_batches": 0.5},
        {"limit_val_batches": 0},
        {"val_check_interval": 0.25},
        {"val_check_interval": 3},
        {"val_check_interval": 7, "check_val_every_n_epoch": None},
        {"check_val_every_n_epoch": 2},
        {"max_steps": 7, "max_epochs": -1},
        {"max_steps": 20, "max_epochs": 3},
        {"max_steps": 5, "accumulate_grad_batches": 3},
        {"max_time": "00:01:00:00"},
        {"detect_anomaly": True},
        {"inference_mode": False},
        {"deterministic": True},
        {"deterministic": "warn"},
        {"benchmark": True},
        {"overfit_batches": 2},
        {"overfit_batches": 0.4},
        {"reload_dataloaders_every_n_epochs": 1},
        {"reload_dataloaders_every_n_epochs": 2},
        {"num_sanity_val_steps": 0},
        {"num_sanity_val_steps": -1},
        {"log_every_n_steps": 3},
        {"log_every_n_steps": 50},
        {"log_every_n_steps": 0},
        {"fast_dev_run": True},
        {"fast_dev_run": 3},
        {"use_distributed_sampler": False},
        {"sync_batchnorm": True},
        {"enable_checkpointing": False},
        {"enable_model_summary": True},
        {"enable_progress_bar": True},
        {"enable_autolog_hparams": False},
    ]
    return [
        *(Setting("Trainer", _said(each), each) for each in plain),
        Setting("Trainer", "min_epochs 2, with EarlyStopping", {**early, "min_epochs": 2}),
        Setting("Trainer", "min_steps 15, with EarlyStopping", {**early, "min_steps": 15}),
    ]


def _strategies() -> list[Setting]:
    """Strategies, plugins, profilers and loggers."""
    plugins = {
        "MixedPrecision bf16": part(f"{_LIGHTNING}plugins.MixedPrecision", precision="bf16-mixed", device="cpu"),
        "DoublePrecision": part(f"{_LIGHTNING}plugins.DoublePrecision"),
        "HalfPrecision bf16": part(f"{_LIGHTNING}plugins.HalfPrecision", precision="bf16-true"),
    }
    loggers = {
        "none": False,
        "the default": True,
        "CSVLogger": [KEPT, part(f"{_LIGHTNING}loggers.CSVLogger", save_dir="logs")],
        "TensorBoardLogger": [part(f"{_LIGHTNING}loggers.TensorBoardLogger", save_dir="logs"), KEPT],
    }
    profilers = ("simple", "advanced", part(f"{_LIGHTNING}profilers.SimpleProfiler", extended=False))
    strategies = ("auto", "ddp", part(f"{_LIGHTNING}strategies.SingleDeviceStrategy", device="cpu"))
    return [
        *(Setting("strategy", str(_short(each)), {"strategy": each}) for each in strategies),
        *(Setting("plugin", name, {"plugins": [plugin]}) for name, plugin in plugins.items()),
        *(Setting("profiler", str(_short(each)), {"profiler": each}) for each in profilers),
        *(Setting("logger", name, {"logger": logger}) for name, logger in loggers.items()),
    ]


def _short(value: Any) -> Any:
    return value["class_path"].rpartition(".")[2] if isinstance(value, dict) else value


def _callbacks() -> list[Setting]:
    """Callbacks of Lightning."""
    val = {"monitor": "val/loss"}
    named: list[tuple[str, dict[str, Any]]] = [
        ("EarlyStopping", {**val, "patience": 1}),
        ("EarlyStopping", _EARLY),
        ("EarlyStopping", {**val, "stopping_threshold": 1.05}),
        ("EarlyStopping", {**val, "divergence_threshold": 0.5}),
        ("EarlyStopping", {"monitor": "train/loss_epoch", "patience": 0, "check_on_train_epoch_end": True}),
        ("StochasticWeightAveraging", {"swa_lrs": 0.05, "swa_epoch_start": 1}),
        ("StochasticWeightAveraging", {"swa_lrs": 0.05, "swa_epoch_start": 0.5, "annealing_epochs": 1}),
        ("EMAWeightAveraging", {"decay": 0.9}),
        ("EMAWeightAveraging", {"decay": 0.9, "update_every_n_steps": 3, "update_starting_at_step": 5}),
        ("WeightAveraging", {}),
        ("GradientAccumulationScheduler", {"scheduling": {1: 2, 2: 5}}),
        ("Timer", {"duration": "00:01:00:00", "interval": "step"}),  # Lightning cannot write its default
        ("Timer", {"duration": "00:01:00:00", "interval": "epoch"}),
        ("LearningRateMonitor", {}),
        ("LearningRateMonitor", {"logging_interval": "step", "log_momentum": True}),
        ("LearningRateMonitor", {"logging_interval": "epoch"}),
        ("ModelCheckpoint", {}),
        ("ModelCheckpoint", {**val, "save_top_k": 2, "save_last": True}),
        ("ModelCheckpoint", {**val, "filename": "{epoch}-{val/loss:.3f}"}),
        ("ModelCheckpoint", {"save_top_k": -1, "every_n_train_steps": 4}),
        ("ModelCheckpoint", {"save_top_k": -1, "every_n_epochs": 2, "save_weights_only": True}),
        ("ModelCheckpoint", {**val, "mode": "max", "save_on_train_epoch_end": True}),
        ("OnExceptionCheckpoint", {"dirpath": "failed"}),
        ("ModelSummary", {"max_depth": 2}),
        ("RichModelSummary", {}),
        ("TQDMProgressBar", {"refresh_rate": 2}),
        ("RichProgressBar", {}),
        ("ModelPruning", {"pruning_fn": "l1_unstructured", "amount": 0.2, "use_lottery_ticket_hypothesis": False}),
    ]
    bars = {"enable_progress_bar": True}
    settings = [
        Setting(
            "callback",
            f"{name} {_said(arguments)}".strip(),
            {"callbacks": [callback(name, **arguments)], **(bars if name.endswith("ProgressBar") else {})},
        )
        for name, arguments in named
    ]
    backbone = callback("BackboneFinetuning", unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.01)
    rate = callback("LearningRateFinder", num_training_steps=20, min_lr=1e-4)
    size = callback("BatchSizeFinder", max_trials=2, init_val=4)
    return [
        *settings,
        Setting("callback", "BackboneFinetuning", {"callbacks": [backbone]}, {"frozen": True}),
        # After their trials the stock finders train with other random numbers than a run without them.
        Setting("callback", "LearningRateFinder (and a stock run with its rate)", {"callbacks": [rate]}, tuned=True),
        Setting("callback", "BatchSizeFinder (and a stock run with its size)", {"callbacks": [size]}, tuned=True),
    ]


def _optimizers() -> list[Setting]:
    """Optimizers and schedules."""
    optimizers: dict[str, dict[str, Any]] = {
        **{name: {} for name in ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adagrad", "RMSprop", "ASGD", "Rprop")},
        "Adadelta": {"rho": 0.8},
        "LBFGS": {"max_iter": 3},
    }
    schedules: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("StepLR", {"step_size": 1, "gamma": 0.5}, {}),
        ("StepLR", {"step_size": 3, "gamma": 0.5}, {"interval": "step"}),
        ("ExponentialLR", {"gamma": 0.9}, {"interval": "step", "frequency": 2}),
        ("MultiStepLR", {"milestones": [1, 2]}, {}),
        ("CosineAnnealingLR", {"T_max": 30}, {"interval": "step"}),
        ("CosineAnnealingWarmRestarts", {"T_0": 2}, {}),
        ("OneCycleLR", {"max_lr": 0.2, "total_steps": 31}, {"interval": "step"}),
        ("LinearLR", {"total_iters": 2}, {}),
        ("PolynomialLR", {"total_iters": 20}, {"interval": "step"}),
        ("ReduceLROnPlateau", {"patience": 0, "threshold": 10.0}, {"monitor": "val/loss"}),
        ("ReduceLROnPlateau", {"patience": 1}, {"monitor": "train/loss", "interval": "step", "frequency": 4}),
    ]
    return [
        *(
            Setting("optimizer", name, model={"lr": 0.05, "optimizer": part(_TORCH + name, lr=0.05, **arguments)})
            for name, arguments in optimizers.items()
        ),
        *(
            Setting(
                "schedule",
                f"{name} {_said(more)}".strip(),
                model={"lr_scheduler": part(_SCHEDULES + name, **arguments), **more},
            )
            for name, arguments, more in schedules
        ),
    ]


def _modules() -> list[Setting]:
    """What modules, data and combinations of settings bring."""
    lbfgs = {"optimizer": part(f"{_TORCH}LBFGS", lr=0.05, max_iter=3), "lr": 0.05}
    many = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.2, "precision": "bf16-mixed", "val_check_interval": 4}
    averaged = {"callbacks": [callback("EMAWeightAveraging", decay=0.9), callback("EarlyStopping", **_EARLY)]}
    suite = part(
        "plcourse.ddp.model.ImageClassifier",
        network=part("plcourse.ddp.networks.MLP", hidden=[16], dropout=0.2),
    )
    digits = part("plcourse.data.image_data.ImageData", source="digits", batch_size=128)
    suites = {"limit_train_batches": 6, "max_epochs": 2}
    return [
        Setting("module", "training_step returns a dict", model={"returns": "dict"}),
        Setting("module", "training_step skips batches", model={"returns": "skips"}),
        Setting("module", "hooks of the optimizer overridden", model=part("stock_parts.OverridingNet")),
        Setting("module", "manual optimization", model=part("stock_parts.ManualNet")),
        Setting(
            "module",
            "manual optimization, two optimizers",
            model=part("stock_parts.ManualNet", optimizers=2),
            counts=False,
        ),
        Setting("data", "a stream with a length", data={"kind": "stream"}),
        Setting("data", "a stream without a length", data={"kind": "unsized"}),
        Setting("data", "a stream, validated every 4 batches", {"val_check_interval": 4}, data={"kind": "unsized"}),
        Setting("data", "two training loaders", data={"kind": "two"}),
        Setting("data", "three validation loaders", data={"loaders": 3}),
        Setting("data", "two workers", data={"num_workers": 2}),
        Setting("together", "LBFGS, accumulation 2", {"accumulate_grad_batches": 2}, lbfgs),
        Setting("together", _said(many), many),
        Setting(
            "together", "EMAWeightAveraging, EarlyStopping, accumulation 2", {**averaged, "accumulate_grad_batches": 2}
        ),
        Setting(
            "together",
            "SWA, schedule by epoch",
            {"callbacks": [callback("StochasticWeightAveraging", swa_lrs=0.05, swa_epoch_start=1)]},
            {"lr_scheduler": part(f"{_SCHEDULES}StepLR", step_size=1)},
        ),
        Setting("the suite's model and data", "defaults", suites, suite, digits),
        Setting(
            "the suite's model and data", "gradient_clip_val 0.1", {**suites, "gradient_clip_val": 0.1}, suite, digits
        ),
        Setting(
            "the suite's model and data",
            "validation every 3 batches",
            {**suites, "val_check_interval": 3},
            suite,
            digits,
        ),
    ]


def settings() -> list[Setting]:
    """Returns all settings, in the order of the table."""
    return [*_arguments(), *_strategies(), *_callbacks(), *_optimizers(), *_modules()]
