"""One fold of any data module as a data module of its own, so that a fold can be run without the others."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from plcourse.catalog import short_class_name
from plcourse.errors import UserError
from plcourse.kfold.folds import check_splittable, plan_folds

_TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class FoldData(pl.LightningDataModule):
    """Trains on the samples of one fold and validates on those held out; the test part is that of the data.

    ``folds/<k>/config.yaml`` of a cross-validated run names it, so that ``plcourse fit -c`` of that file repeats the
    fold by itself, and ``plcourse validate --run`` of the folder scores it on the right samples.

    Args:
        data: what is split; satisfies `plcourse.data.Splittable`.
        fold: the fold's number, from 0.
        n_splits: folds per repeat.
        n_repeats: times that all samples are cut anew.
        stratified: whether each fold gets every class's share; None where the labels are classes.
        groups: whether the samples of one group stay together; None where the data have groups.
        random_state: fixes the folds, as in scikit-learn.
    """

    def __init__(
        self,
        data: pl.LightningDataModule,
        fold: int,
        n_splits: int = 5,
        n_repeats: int = 1,
        stratified: bool | None = None,
        groups: bool | None = None,
        random_state: int = 0,
    ) -> None:
        super().__init__()
        check_splittable(data)
        self.whole, self.fold = data, fold
        self.cut = (n_splits, n_repeats, stratified, groups, random_state)
        self.allow_zero_length_dataloader_with_multiple_devices = (
            data.allow_zero_length_dataloader_with_multiple_devices
        )
        for hook in _TRANSFER:
            if is_overridden(hook, data):
                setattr(self, hook, getattr(data, hook))

    def prepare_data(self) -> None:
        """As the data do it."""
        self.whole.trainer = self.trainer
        self.whole.prepare_data()

    def setup(self, stage: str) -> None:
        """Sets the data up, then splits them.

        Raises:
            UserError: there is no such fold.
        """
        self.whole.trainer = self.trainer
        self.whole.setup(stage)
        plan = plan_folds(self.whole, *self.cut)
        if not 0 <= self.fold < len(plan.folds):
            raise UserError(f"fold is {self.fold}; the folds are numbered 0 to {len(plan.folds) - 1}")
        fold = plan.folds[self.fold]
        self.part = self.whole.with_split(fold.train_ids, fold.val_ids)  # pyright: ignore[reportAttributeAccessIssue]  (checked above)
        self.part.trainer = self.trainer
        self.part.setup(stage)

    def train_dataloader(self) -> Any:
        """The samples of the fold that are for training."""
        return self.part.train_dataloader()

    def val_dataloader(self) -> Any:
        """The samples held out."""
        return self.part.val_dataloader()

    def test_dataloader(self) -> Any:
        """The test part, which no fold touches."""
        return self.part.test_dataloader()

    def predict_dataloader(self) -> Any:
        """What the data predict."""
        return self.part.predict_dataloader()

    @property
    def terms(self) -> dict[str, Any]:
        """How the samples are split, in plain types."""
        return {**getattr(self.part, "terms", {}), "fold": self.fold}

    def state_dict(self) -> dict[str, Any]:
        """What the data of the fold know of its training part."""
        return self.part.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what the model was trained with."""
        self.part.load_state_dict(state_dict)

    def __getattr__(self, name: str) -> Any:
        """Sizes, label names and whatever else the data of the fold have."""
        part = self.__dict__.get("part")
        if part is None or name.startswith("__"):
            raise AttributeError(f"FoldData has no {name!r} before it is set up")
        return getattr(part, name)


def fold_config(config: dict[str, Any], fold: int, cut: dict[str, Any]) -> dict[str, Any]:
    """The config of a plain fit of one fold, made from that of the cross-validation.

    Args:
        config: the resolved config of the run.
        fold: the fold's number.
        cut: ``n_splits``, ``n_repeats``, ``stratified``, ``groups`` and ``random_state``.
    """
    plain = {**config["trainer"], "fit_loop": None}
    for slot in ("validate_loop", "test_loop", "predict_loop"):
        if short_class_name((plain.get(slot) or {}).get("class_path") or "").startswith("KFold"):
            plain[slot] = None
    wrapped = {
        "class_path": "FoldData",
        "init_args": {"data": config["data"], "fold": fold, **cut},
    }
    return {**config, "trainer": plain, "data": wrapped}
