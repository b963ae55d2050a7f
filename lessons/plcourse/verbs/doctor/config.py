"""Checks a config before a long run: its keys, its data, and a trial of two batches in a temporary folder."""

import contextlib
import io
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from jsonargparse import Namespace
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.types import STEP_OUTPUT

from plcourse.cli.course_cli import CourseCLI
from plcourse.cli.from_data import take_from_data
from plcourse.cli.messages import quieten
from plcourse.cli.request import Request
from plcourse.data.downloads import downloads
from plcourse.data.splits import overlap
from plcourse.errors import UserError, first_line
from plcourse.runs import allowlist
from plcourse.runs.run import Run
from plcourse.training.few_steps import few_steps
from plcourse.verbs.doctor.findings import FIX, NOTE, OK, Finding, Problem, run_checks

_TRIAL = {
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "max_epochs": 1,
    "limit_train_batches": 2,
    "limit_val_batches": 2,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
}
_MIB = 2**20
_SKEWED = 10  # a larger ratio of the largest to the smallest class is noted


class Examiner(CourseCLI):
    """Parses a request and builds its model, data and trainer in a temporary folder, without training."""

    folder: Path
    requested: Namespace  # the settings before they are shortened to a trial

    def _run_subcommand(self, subcommand: str) -> None:
        take_from_data(self.config[subcommand], self.request)
        self.requested = self.config[subcommand].clone()
        for key, value in _TRIAL.items():
            self.config[subcommand].trainer[key] = value
        if "KFoldLoop" in str(self.requested.trainer.get("fit_loop")):
            self.config[subcommand].trainer["fit_loop"] = None  # one fit stands for all folds
        self.run_folder = Run.create("own/doctor", self.folder, {"verb": "fit"})
        self._set_seed()
        self.config = self._placed_in(self.run_folder)
        super(CourseCLI, self).instantiate_classes()


def examine_config(request: Request) -> Iterator[Finding]:
    """Checks a config as `plcourse fit` would run it with this request."""
    allowlist.install(request.trusted)
    temporary = tempfile.TemporaryDirectory()
    with downloads(request.allow_downloads), temporary as folder, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's default: meant for the library's authors
        quieten()
        Examiner.folder = Path(folder)
        try:
            cli = Examiner(request)
        except UserError:
            raise
        except Exception as error:  # a constructor may raise anything
            remedy = (
                "`plcourse doctor` shows what this machine has, `plcourse fit --model.help NAME` a class's settings"
            )
            yield Finding(FIX, f"it cannot be built here: {first_line(error)}", remedy)
            return
        yield Finding(OK, "every key is known and has a valid value")
        yield from run_checks([partial(check, cli) for check in (_no_effect, _data, _trial)])
        for line in dict.fromkeys(str(warning.message).strip().partition("\n")[0] for warning in warned):
            yield Finding(NOTE, f"a library warns: {line}")


def _no_effect(cli: Examiner) -> Iterator[Finding]:
    """Notes settings of the trainer that have no effect, or a surprising one."""
    trainer = cli.requested.trainer
    no_clipping = trainer.get("gradient_clip_algorithm") and trainer.get("gradient_clip_val") is None
    never_validates = (trainer.get("check_val_every_n_epoch") or 1) > (trainer.get("max_epochs") or 1000) > 0
    notes = {
        "gradient_clip_algorithm has no effect without trainer.gradient_clip_val": no_clipping,
        "check_val_every_n_epoch exceeds trainer.max_epochs: the run never validates": never_validates,
        "fast_dev_run is on: the run stops after a batch and saves nothing": trainer.get("fast_dev_run"),
        "overfit_batches is set: the run trains on these batches only": trainer.get("overfit_batches"),
        "limit_val_batches is 0: no checkpoint can be the best": trainer.get("limit_val_batches") == 0,
        "benchmark may undo trainer.deterministic": trainer.get("deterministic") and trainer.get("benchmark"),
    }
    found = [Finding(NOTE, f"trainer.{text}") for text, applies in notes.items() if applies]
    yield from found or [Finding(OK, "every setting of the trainer has an effect")]


def _data(cli: Examiner) -> Iterator[Finding]:
    data = cli.datamodule
    if data is None:
        yield Finding(NOTE, "the model provides its own data, which is not examined")
        return
    data.prepare_data()
    data.setup("fit")
    yield from _duplicates(data)
    yield from _classes(data)
    loader = data.train_dataloader()
    size = cli.requested.get("data", {}).get("init_args", {}).get("batch_size")
    devices = cli.requested.trainer.get("devices")
    ranks = (int(devices) if str(devices).isdecimal() else 1) * int(cli.requested.trainer.get("num_nodes") or 1)
    sampler = getattr(loader, "plan", None) or getattr(loader, "sampler", None)
    n = getattr(data, "sizes", {}).get("n_train") or getattr(sampler, "n", None)
    if not size or not n:
        return
    if size * ranks > n:
        remedy = f"make data.init_args.batch_size at most {n // ranks}"
        raise Problem(f"a batch of {size} on {ranks} process(es) is larger than the {n} training samples", remedy)
    steps = -(-n // (size * ranks))
    yield Finding(OK, f"{n:,} training samples, {steps:,} batches of {size} on {ranks} process(es) in an epoch")
    if (advice := few_steps(cli.requested.as_dict(), _of_a_fold(cli, n), ranks)) is not None:
        yield Finding(NOTE, advice.what, f"add {advice.flags}")
    every = cli.requested.trainer.get("log_every_n_steps") or 50
    if every > steps * max(1, cli.requested.trainer.get("max_epochs") or 1):
        what = f"trainer.log_every_n_steps is {every}, which exceeds the number of steps: no training curve"
        yield Finding(NOTE, what)


def _of_a_fold(cli: Examiner, n_train: int) -> int:
    """The training samples of one fold, or all of them without folds."""
    loop = cli.requested.trainer.get("fit_loop") or {}
    if "KFoldLoop" not in str(loop.get("class_path")):
        return n_train
    folds = (loop.get("init_args") or {}).get("n_splits") or 5
    return (n_train + getattr(cli.datamodule, "sizes", {}).get("n_val", 0)) * (folds - 1) // folds


def _duplicates(data: object) -> Iterator[Finding]:
    for holder in [data, *vars(data).values()]:
        parts, source = getattr(holder, "parts", None), getattr(holder, "source", None)
        if isinstance(parts, dict) and hasattr(source, "hashes"):
            found = overlap(parts, source)  # pyright: ignore[reportArgumentType]  (a Source: it has hashes)
            if not found:
                sizes = ", ".join(f"{name} {len(rows):,}" for name, rows in parts.items())
                yield Finding(OK, f"no sample or copy of it is in two parts ({sizes})")
                return
            one, other, sample = found[0]
            remedy = f"remove one of {one} and {other} ({sample}), and the others like it"
            yield Finding(FIX, f"{len(found)} samples are in more than one part", remedy)
            return
    yield Finding(NOTE, f"{type(data).__name__} has no content hashes: copies in two parts cannot be detected")


def _classes(data: object) -> Iterator[Finding]:
    labels = getattr(data, "labels", None)
    if labels is None or not hasattr(labels, "dtype") or labels.dtype.kind not in "iu":
        return
    names = list(getattr(data, "label_names", None) or [])
    counts = Counter(labels.tolist())
    absent = [name for number, name in enumerate(names) if not counts[number]]
    if absent:
        remedy = "remove the class, or put the folder of its samples beside the others"
        yield Finding(FIX, f"no sample of class {', '.join(map(str, absent[:5]))} to train on", remedy)
    (most, large), (least, small) = counts.most_common(1)[0], counts.most_common()[-1]
    named = dict(enumerate(names))
    ends = f"{small:,} samples ({named.get(least, least)}) to {large:,} ({named.get(most, most)})"
    what = f"{len(counts)} classes, from {ends}"
    if large > _SKEWED * small:
        yield Finding(NOTE, what, "accuracy says little about the small classes; look at f1 and at each class")
    else:
        yield Finding(OK, what)


class _Memory(Callback):
    """Measures the bytes that a batch keeps for its backward pass, and those of the optimizers' state."""

    def __init__(self) -> None:
        self.activations = 0
        self.optimizer_state = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wraps the training step."""
        step, weights = pl_module.training_step, {each.untyped_storage().data_ptr() for each in pl_module.parameters()}

        def measured(*args: object, **kwargs: object) -> STEP_OUTPUT:
            seen: dict[int, int] = {}

            def pack(tensor: torch.Tensor) -> torch.Tensor:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in weights:
                    seen[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                result = step(*args, **kwargs)
            self.activations = max(self.activations, sum(seen.values()))
            return result

        pl_module.training_step = measured

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds up the optimizers' tensors and unwraps the training step."""
        states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
        kept = [each for state in states for each in state.values() if isinstance(each, torch.Tensor)]
        self.optimizer_state = sum(each.nbytes for each in kept)
        pl_module.__dict__.pop("training_step", None)


def _trial(cli: Examiner) -> Iterator[Finding]:
    """Trains and validates on two batches each."""
    memory, trainer, model = _Memory(), cli.trainer, cli.model
    if type(model).training_step is LightningModule.training_step:
        yield Finding(NOTE, f"{type(model).__name__} does not train; `plcourse test` is the verb for it")
        return
    trainer.callbacks.append(memory)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.fit(model, cli.datamodule)
    except UserError as error:
        what = "the monitor" if "never logged" in str(error) else "a trial of two batches fails"
        raise Problem(f"{what}: {first_line(error)}", "fix the config, then run doctor again") from error
    yield Finding(OK, "training and validation work on two batches")
    logged = sorted(trainer.callback_metrics)
    for name in [name for each in trainer.callbacks if (name := getattr(each, "monitor", None))]:
        if name in logged:
            yield Finding(OK, f"{name} is monitored and logged")
        else:
            what = f"{name} is monitored but was not logged by two batches; logged are {', '.join(logged)}"
            yield Finding(NOTE, what)
    parts = {
        "weights": sum(each.nbytes for each in model.parameters()),
        "gradients": sum(each.nbytes for each in model.parameters() if each.requires_grad),
        "optimizer": memory.optimizer_state,
        "activations of a batch": memory.activations,
    }
    total = sum(parts.values())
    sizes = ", ".join(f"{name} {size / _MIB:.2g}" for name, size in parts.items())
    free = _free_memory()
    line = f"about {total / _MIB:.3g} MiB for the model per process, not counting Python and the data (MiB: {sizes})"
    if free is not None and total > free:
        remedy = "a smaller batch_size with trainer.accumulate_grad_batches, or activation checkpointing"
        raise Problem(f"{line}; only {free / _MIB:.0f} MiB are free", remedy)
    yield Finding(OK, line)


def _free_memory() -> int | None:
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
