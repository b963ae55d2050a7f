"""Runs Lightning's tuners, which choose a batch size or a learning rate, before the run that uses their result.

As callbacks of the run they would change a setting after schedule, sample order and record were made from it. Here each
tuner gets a separate model, data module and trainer. Its result replaces it in the config, so that ``config.yaml``
repeats the run.
"""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder

from plcourse.errors import UserError, first_line
from plcourse.training.trainer import Trainer

_TUNERS = {each.__name__: each for each in (BatchSizeFinder, LearningRateFinder)}
_OFF = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
_PLAIN = dict.fromkeys(("fit_loop", "validate_loop", "test_loop", "predict_loop", "profiler"))
_ENDLESS = 10**6  # epochs; a schedule asks for an end

Setting = tuple[str, Any, Any]  # a dotted key, its value before and after


def tuners(config: Namespace) -> list[int]:
    """Returns the positions of the tuners among the callbacks of a parsed config."""
    return [place for place, callback in enumerate(_listed(config)) if _name(callback) in _TUNERS]


def refuse_tuners(config: Namespace, verb: str) -> None:
    """Raises UserError for a tuner where nothing is trained."""
    for place in tuners(config):
        name = _name(_listed(config)[place])
        raise UserError(f"{name} chooses a training setting, but {verb} does not train: remove it")


def tune(config: Namespace, build: Callable[[], Namespace], folder: Path, checkpoint: Path | None) -> list[Setting]:
    """Runs the tuners of a config, in their order; their results replace them in the config.

    Args:
        config: the parsed config of a fit; changed in place.
        build: creates the objects of the config in its present state.
        folder: where a tuner stores the weights that it restores.
        checkpoint: where the training will start; None for fresh weights.

    Returns:
        What was changed.

    Raises:
        UserError: a tuner fails, or its setting is no key of the config.
    """
    found: list[Setting] = []
    while places := tuners(config):
        built = build()
        name = _name(_listed(config)[places[0]])
        callbacks = built.trainer.callbacks
        tuner = (callbacks if isinstance(callbacks, list) else [callbacks])[places[0]]
        tuner._early_exit = True
        settings = {**built.trainer.as_dict(), **_OFF, **_PLAIN}
        if isinstance(tuner, LearningRateFinder):  # it takes the requested steps even in a shorter run
            settings |= {"max_epochs": _ENDLESS, "max_steps": -1, "limit_val_batches": 0}
        own = folder / ".tuning"
        trainer = Trainer(**{**settings, "callbacks": [tuner], "default_root_dir": str(own)})
        applies = getattr(tuner, "_update_attr", True)
        tuner._update_attr = False  # change the config, not the object
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
                trainer.fit(built.model, datamodule=built.get("data"), ckpt_path=checkpoint, weights_only=True)
            by_size = isinstance(tuner, BatchSizeFinder)
            key, value = _batch_size(config, tuner) if by_size else _rate(config, tuner, trainer)
        except (MisconfigurationException, AttributeError, AssertionError) as error:
            raise UserError(f"{name} cannot be used here: {first_line(error)}") from error
        finally:
            if trainer.is_global_zero:
                shutil.rmtree(own, ignore_errors=True)
        config.trainer["callbacks"] = [each for place, each in enumerate(_listed(config)) if place != places[0]]
        if value is not None:
            before = config.get(key)
            if applies:
                config[key] = value
            found.append((key, before, value if applies else before))
    return found


def _batch_size(config: Namespace, tuner: BatchSizeFinder) -> tuple[str, int | None]:
    name = tuner._batch_arg_name
    keys = [key for part in ("data", "model") if _has(config, key := f"{part}.init_args.{name}")]
    if not keys:
        raise UserError(f"BatchSizeFinder changes '{name}', but neither data nor model of the config have this setting")
    return keys[0], tuner.optimal_batch_size


def _rate(config: Namespace, tuner: LearningRateFinder, trainer: pl.Trainer) -> tuple[str, float | None]:
    names = [tuner._attr_name] if tuner._attr_name else ["lr", "learning_rate"]
    keys = [f"model.init_args.{name}" for name in names if _has(config, f"model.init_args.{name}")]
    arguments = config.model.get("init_args") or Namespace()
    optimizers = [name for name in vars(arguments) if name.endswith("optimizer")]
    keys += [key for name in optimizers if _has(config, key := f"model.init_args.{name}.init_args.lr")]
    if not keys:
        raise UserError("LearningRateFinder finds no learning rate in the config's model: set its attr_name")
    if tuner.optimal_lr is None:  # with fast_dev_run
        return keys[0], None
    rate = tuner.optimal_lr.suggestion()
    if rate is None:
        raise UserError("LearningRateFinder found no rate in so few steps: increase its num_training_steps")
    group = trainer._checkpoint_connector.settings["optimizers"][0]["groups"][0]  # pyright: ignore
    scale = group.get("initial_lr", group.get("lr")) / config.get(keys[0])  # some models multiply the rate
    return keys[0], rate / scale


def _has(config: Namespace, key: str) -> bool:
    return config.get(key) is not None


def _listed(config: Namespace) -> list[Any]:
    callbacks = config.trainer.get("callbacks")
    return callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []


def _name(callback: object) -> str:
    return str(getattr(callback, "class_path", "")).rpartition(".")[2]
