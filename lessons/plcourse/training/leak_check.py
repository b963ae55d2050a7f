"""Keeps training samples out of scores: compares what the weights were trained on with what is evaluated.

An evaluation of a sample that the weights were trained on is refused, whatever the reason (another split, another
folder, an ensemble whose members have other splits). Leaving such samples out instead would score a part that nobody
asked for: the rest of a stratified part is no random sample of it, and an ensemble of several splits would have next to
nothing left. ``trainer.allow_training_samples: true`` scores them anyway.
"""

import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from plcourse.console import say
from plcourse.data.provenance import INSIDE, KEY, Identities, Training, trainings_of
from plcourse.errors import RunFailed, UserError
from plcourse.processes.collectives import from_rank_0

_trainings: weakref.WeakKeyDictionary[pl.LightningModule, list[Training]] = weakref.WeakKeyDictionary()
Source = str | Path | None  # the checkpoint of some weights
_SHOWN = ("source", "root", "path", "val_size", "test_size", "split_seed", "fold")


class TrainingSamples:
    """What the weights in a trainer were trained on, and whether (`allowed`) it may score such samples."""

    def __init__(self, trainer: pl.Trainer, allowed: bool) -> None:
        self.trainer, self.allowed = trainer, allowed
        self.scored = 0  # training samples in the last evaluation

    @property
    def trainings(self) -> list[Training]:
        """All known trainings of the model's weights."""
        model = getattr(self.trainer, "lightning_module", None)
        return [] if model is None else _trainings.get(model, [])

    @property
    def findings(self) -> dict[str, int]:
        """What ``eval/<stage>.json`` contains about training samples that were scored on purpose."""
        return {"training_samples": self.scored} if self.scored else {}

    def take_over(self, checkpoint: Mapping[str, Any], path: str | Path) -> None:
        """Records what the weights of a checkpoint that the model has loaded were trained on."""
        _trainings[self.trainer.lightning_module] = trainings_of(checkpoint, Path(path).parent)

    def remember(self, loaders: Iterable[object]) -> None:
        """Records the samples of the loaders that a fit trains on."""
        model = self.trainer.lightning_module
        for loader in loaders:
            if (samples := identities(loader)) is not None:
                learn(model, [Training.on(samples, terms_of(self.trainer))])

    def states(self) -> dict[str, Any]:
        """Returns what a checkpoint contains about it; empty if nothing is known."""
        known = [training.state() for training in self.trainings]
        return {KEY: known} if known else {}

    def save(self, folder: Path) -> None:
        """Writes one file per training beside the checkpoints; call it on the first rank only.

        Raises:
            RunFailed: hashes that the checkpoints do not contain cannot be written.
        """
        for training in self.trainings:
            try:
                training.save(folder)
            except OSError as error:
                if training.count > INSIDE:
                    raise RunFailed(f"cannot write '{folder / training.file_name}': {error.strerror}") from error

    def check(self, loaders: Iterable[object], path: Source = None) -> None:
        """Refuses to evaluate samples that the weights were trained on; a collective of all ranks.

        Raises:
            UserError: there are such samples; the message names the first and how the splits differ.
        """
        self.scored = 0
        self.compare(self.trainings, loaders, path)

    def compare(self, trainings: Iterable[Training], loaders: Iterable[object], path: Source = None) -> None:
        """Does the same for other weights in the evaluation, such as those of an ensemble's member, from ``path``."""
        trainings = list(trainings)
        stage = "test" if self.trainer.testing else "validation"
        for loader in loaders:
            samples = identities(loader)
            if samples is None or getattr(loader, "part", "") == "train":  # the training part was requested by name
                continue
            line = from_rank_0(self._found(trainings, samples, stage, path) if self.trainer.is_global_zero else None)
            if line is not None and not self.allowed:
                raise UserError(line)
            if line is not None:
                say(f"warning: {line.partition(';')[0]}; scored because trainer.allow_training_samples is set")

    def _found(self, trainings: list[Training], samples: Identities, stage: str, path: Source) -> str | None:
        unknown = next((training for training in trainings if training.hashes is None), None)
        owner = "the model" if path is None else str(path)
        if unknown is not None:
            lacks = f"{unknown.file_name} is missing" if unknown.digest else "the checkpoint does not list them"
            say(f"{owner}: its training samples are not known ({lacks}), so the {stage} samples were not checked")
        seen = [(training, numbers) for training in trainings if len(numbers := samples.among(training.hashes))]
        if not seen:
            return None
        overlap = np.unique(np.concatenate([numbers for _, numbers in seen]))
        self.scored += len(overlap)
        id_ = samples.ids[int(overlap[0])]
        how = _difference(seen[0][0].terms, terms_of(self.trainer))
        return (
            f"{owner} was trained on {len(overlap):,} of the {len(samples.ids):,} {stage} samples, the first is {id_}"
            f"{how}; evaluate on other samples, or score these on purpose with --trainer.allow_training_samples=true"
        )


def check_other_weights(trainer: Any, checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Checks the weights of another checkpoint that take part in an evaluation, as `TrainingSamples.check` does."""
    if trainer.state.fn == "predict":  # predictions are not scored
        return
    loop = trainer.test_loop if trainer.testing else trainer.validate_loop
    loaders = loop._combined_loader.flattened
    trainer.training_samples.compare(trainings_of(checkpoint, Path(path).parent), loaders, path)


def learn(model: pl.LightningModule, trainings: Iterable[Training]) -> None:
    """Records that a model's weights were trained on further samples, such as those of a pretrained part."""
    known = _trainings.setdefault(model, [])
    known += [each for each in trainings if each.digest not in {training.digest for training in known}]


def identities(loader: object) -> Identities | None:
    """Returns the identities of a loader's samples; None if they are not known."""
    return getattr(getattr(loader, "data", None), "identities", None)


def terms_of(trainer: pl.Trainer) -> dict[str, Any]:
    """Returns how the data of a trainer are split; empty if the data module does not say."""
    data = getattr(trainer, "datamodule", None)
    with suppress(AttributeError):
        return dict(data.terms)  # pyright: ignore[reportOptionalMemberAccess]
    return {}


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Says how two splits differ."""
    names = [name for name in _SHOWN if there.get(name) != here.get(name)]
    if not names or not there:
        return ""
    was, now = (", ".join(f"{name}={terms.get(name)}" for name in names) for terms in (there, here))
    return f" (it was split with {was}, these samples with {now})"
