"""Decides what a resumed run may change, and records its changes. No torch.

A setting that takes effect from the resumption on may change, and is recorded with its first step. A setting that would
make it a different run must not change. `RULES` says which is which.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from plcourse.errors import UserError
from plcourse.files import write_text
from plcourse.runs.differences import Difference, differences, same_class
from plcourse.runs.run import Run

MAY_CHANGE = ""
_MODEL = "the weights in the checkpoint belong to the old model"
_DATA = "the steps so far used other data"
_PLAN = "the order of the samples and the planned steps depend on it"
_STATE = "the state in the checkpoint belongs to another class"

# The first pattern that matches a key gives `MAY_CHANGE` or the reason against it. `*` also matches dots.
RULES: tuple[tuple[str, str], ...] = (
    ("seed_everything", "all random numbers of the run depend on it"),
    ("trainer.fast_dev_run", "it is only for trying out a new run"),
    ("trainer.overfit_batches", _DATA),
    ("trainer.limit_train_batches", _PLAN),
    ("trainer.accumulate_grad_batches", _PLAN),
    ("trainer.*", MAY_CHANGE),
    # the optimizers and schedules of any model, whose settings loops and `configured` apply
    ("model.init_args.*optimizer.init_args.*", MAY_CHANGE),
    ("model.init_args.*optimizer", _STATE),
    ("model.init_args.*lr_scheduler.init_args.*", MAY_CHANGE),
    ("model.init_args.*lr_scheduler", _STATE),
    # those that Lightning configures for other models
    ("optimizer.init_args.*", MAY_CHANGE),
    ("optimizer*", _STATE),
    ("lr_scheduler.init_args.*", MAY_CHANGE),
    ("lr_scheduler*", _STATE),
    *(
        (f"model.init_args.{name}", MAY_CHANGE)
        for name in (
            # settings of optimizers, in models that take them as arguments
            *("lr", "learning_rate", "weight_decay", "momentum", "betas", "eps", "linear_scaling", "encoder_lr"),
            # the loss and its minimization
            *("class_weight", "mask_weight", "dice_weight", "label_smoothing", "penalty_weight", "gamma", "n_critic"),
            *("gradient_clip_val", "micro_batches", "ema_decay", "*dropout", "recompute", "channels_last"),
            # for evaluations and predictions only
            *("mc_samples", "tta", "tta.*", "tta_views", "embedding"),
            *("max_new_tokens", "temperature", "top_k", "top_p", "stream"),
        )
    ),
    ("model*", _MODEL),
    ("data.init_args.batch_size", _PLAN),
    ("data.init_args.augment*", MAY_CHANGE),
    ("data.init_args.num_workers", MAY_CHANGE),
    ("data.init_args.pin_memory", MAY_CHANGE),
    ("data.init_args.eval_batch_size", MAY_CHANGE),
    ("data.init_args.predict*", MAY_CHANGE),
    ("data.init_args.prompts*", MAY_CHANGE),
    ("data.init_args.paths", MAY_CHANGE),
    ("data*", _DATA),
)
_CALLBACKS = "trainer.callbacks"
_TUNERS = ("BatchSizeFinder", "LearningRateFinder")  # they choose a setting before the training
# Callbacks whose settings must not change: the checkpoint restores them, or the steps were planned with them.
_FROZEN = {
    "StochasticWeightAveraging": "the state in the checkpoint restores the old setting",
    "GradientAccumulationScheduler": _PLAN,
}
# Settings in which the folds of a cross-validation may differ, because no training depends on them.
_MAY_DIFFER_BETWEEN_FOLDS = (
    *("trainer.fit_loop.init_args.folds", "trainer.fit_loop.init_args.n_jobs"),
    *("trainer.fit_loop.init_args.monitor", "trainer.fit_loop.init_args.mode", "trainer.logger*"),
    *("trainer.enable_*", "trainer.log_every_n_steps", "trainer.profiler*", "trainer.*_loop*", "trainer.num_sanity*"),
    *("trainer.limit_test_batches", "trainer.limit_predict_batches", "trainer.default_root_dir", "trainer.devices"),
    *("data.*num_workers", "data.*predict*", "data.*eval_batch_size"),
)


@dataclass
class Change:
    """The settings that a resumed run changes."""

    settings: dict[str, Difference]  # the old and the new value by dotted key
    config: str  # the complete new config as YAML
    asked: Mapping[str, Any]  # the new config as plain data

    @classmethod
    def between(cls, recorded: Mapping[str, Any], asked: Mapping[str, Any], config: str) -> "Change":
        """Compares two complete configs; callbacks are matched by class, not by position."""
        recorded, asked = _with_list(recorded), _with_list(asked)
        found = differences(recorded, asked)
        if _CALLBACKS in found:
            found = {key: value for key, value in found.items() if key != _CALLBACKS} | _callbacks(*found[_CALLBACKS])
        return cls(found, config, asked)

    def check(self, run: Run) -> None:
        """Raises a UserError for the first setting that must not change."""
        for key, (old, new) in self.settings.items():
            if reason := _refusal(key, old, new, self.asked):
                raise UserError(_line(key, old, new, f"run {run.name}", reason))

    @property
    def of_callbacks(self) -> list[tuple[int, str]] | None:
        """The changed arguments of callbacks, as positions in the new list and names; None if no callback changes."""
        parts = [key.split(".") for key in self.settings if key.startswith(f"{_CALLBACKS}.")]
        if not parts:
            return None
        return [(int(part[2]), part[4]) for part in parts if len(part) > 4 and part[3] == "init_args"]

    def record(self, run: Run, step: int, epoch: int) -> None:
        """Writes the new config, keeps the old one, and lists the change in ``run.json`` with its first step."""
        known = run.record.get("changes") or []
        earlier = f"config-{len(known) + 1}.yaml"
        write_text(run.path / earlier, run.config_path.read_text(encoding="utf-8"))
        settings = {key: list(values) for key, values in self.settings.items()}
        entry = {"from_step": step, "from_epoch": epoch, "settings": settings, "earlier_config": earlier}
        run.update(changes=[*known, entry])
        write_text(run.config_path, self.config)

    def __str__(self) -> str:
        return ", ".join(f"{key} {_short(old)} -> {_short(new)}" for key, (old, new) in self.settings.items())


def check_folds(trained: Mapping[str, Any], asked: Mapping[str, Any], where: str) -> None:
    """Raises a UserError if the config of a fold, `asked`, differs from that of a trained fold, which `where` names."""
    for key, (old, new) in Change.between(trained, asked, "").settings.items():
        if not any(fnmatchcase(key, pattern) for pattern in _MAY_DIFFER_BETWEEN_FOLDS):
            reason = "a mean over folds with different settings would have no meaning"
            raise UserError(_line(key, old, new, where, reason))


def _refusal(key: str, old: object, new: object, asked: Mapping[str, Any]) -> str:
    if key.startswith(f"{_CALLBACKS}."):
        place = key.split(".")[2]
        if _class_name(new) in _TUNERS:
            return "it chooses a setting before a run starts, and this run has started"
        known = _class_name(asked["trainer"]["callbacks"][int(place)]) if place.isdecimal() else _class_name(old)
        if known == "GradientAccumulationScheduler" or (place.isdecimal() and old is not None):
            return _FROZEN.get(known, MAY_CHANGE)
        return MAY_CHANGE
    plain = ("", "FitLoop", "TracingFitLoop")
    if key == "trainer.fit_loop" and not (_class_name(old) in plain and _class_name(new) in plain):
        return _STATE
    return next((reason for pattern, reason in RULES if fnmatchcase(key, pattern)), MAY_CHANGE)


def nothing_left(run: Run, trainer: Mapping[str, Any], stopped_early: bool = False) -> str:
    """Returns the message that a run is finished and how to continue it; `trainer` is a part of its config."""
    limit = "max_steps" if (trainer.get("max_steps") or -1) > 0 else "max_epochs"
    end = trainer.get(limit) or 0
    how = f"to go on: plcourse fit --run {run.name} --trainer.{limit} {2 * end}"
    if _class_name(trainer.get("fit_loop")) == "KFoldLoop":
        end, how = 0, "all of its folds are trained"
    elif stopped_early:
        end, how = 0, "it stopped early; to go on, change the callback that stopped it"
    return f"nothing is left to train in run {run.name}{f' with {limit} {end}' if end > 0 else ''}: {how}"


def _with_list(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the config with a single callback as a list of one."""
    trainer = config.get("trainer") or {}
    if isinstance(callbacks := trainer.get("callbacks"), Mapping):
        return {**config, "trainer": {**trainer, "callbacks": [callbacks]}}
    return config


def _callbacks(old: Any, new: Any) -> dict[str, Difference]:
    """Returns the differences of two lists of callbacks, which may differ in length; an added one has no old value."""
    left = list(old or [])
    found: dict[str, Difference] = {}
    for place, callback in enumerate(new or []):
        key = f"{_CALLBACKS}.{place}"
        twin = next((each for each in left if same_class(_path(each), _path(callback))), None)
        if twin is None:
            found[key] = (None, callback)
            continue
        left.remove(twin)
        pair = differences({"callback": twin}, {"callback": callback})
        found |= {inner.replace("callback", key, 1): values for inner, values in pair.items()}
    return found | {f"{_CALLBACKS}.removed.{number}": (each, None) for number, each in enumerate(left)}


def _path(value: object) -> str:
    return str(value.get("class_path", "") if isinstance(value, Mapping) else value or "")


def _class_name(value: object) -> str:
    return _path(value).rpartition(".")[2]


def _line(key: str, old: object, new: object, where: str, reason: str) -> str:
    return f"{key} is {_short(old)} in {where} and {_short(new)} is asked for: {reason}; restore it, or start a new run"


def _short(value: object) -> str:
    text = "null" if value is None else str(_class_name(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
