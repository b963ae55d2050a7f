"""A data module for a single fold, so that one fold can be run without the others."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from plcourse.catalog import short_class_name
from plcourse.errors import UserError
from plcourse.kfold.folds import Cut, check_splittable, plan_folds


class FoldData(pl.LightningDataModule):
    """Trains on the training samples of one fold and validates on its held-out samples.

    ``folds/<k>/config.yaml`` of a cross-validated run uses it, so that ``plcourse fit -c`` with that file repeats the
    fold alone, and ``plcourse validate --run`` with the folder scores it on its held-out samples.

    Args:
        data: what is split; satisfies `plcourse.data.Splittable`.
        fold: the fold's number, from 0.
        n_splits: folds per repeat.
        n_repeats: number of repeats.
        stratified: whether each fold has the class proportions of the whole; None for yes if the labels are classes.
        groups: whether the samples of a group stay together; None for yes if the data have groups.
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
        for hook in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
            if is_overridden(hook, data):
                setattr(self, hook, getattr(data, hook))

    def prepare_data(self) -> None:
        """Does what the data do."""
        self.whole.trainer = self.trainer
        self.whole.prepare_data()

    def setup(self, stage: str) -> None:
        """Sets the data up and splits them; a UserError if the fold does not exist."""
        self.whole.trainer = self.trainer
        self.whole.setup(stage)
        plan = plan_folds(self.whole, *self.cut)
        if not 0 <= self.fold < len(plan.folds):
            raise UserError(f"fold is {self.fold}; it must be 0 to {len(plan.folds) - 1}")
        fold = plan.folds[self.fold]
        self.part = self.whole.with_split(fold.train_ids, fold.val_ids)  # pyright: ignore[reportAttributeAccessIssue]  (checked above)
        self.part.trainer = self.trainer
        self.part.setup(stage)

    def train_dataloader(self) -> Any:
        """The training samples of the fold."""
        return self.part.train_dataloader()

    def val_dataloader(self) -> Any:
        """The held-out samples."""
        return self.part.val_dataloader()

    def test_dataloader(self) -> Any:
        """The test part of the data, which belongs to no fold."""
        return self.part.test_dataloader()

    def predict_dataloader(self) -> Any:
        """The samples that the data predict."""
        return self.part.predict_dataloader()

    @property
    def terms(self) -> dict[str, Any]:
        """Everything that determines the split, in plain types."""
        return {**getattr(self.part, "terms", {}), "fold": self.fold}

    def state_dict(self) -> dict[str, Any]:
        """The state fitted to the training samples of the fold."""
        return self.part.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state that the model was trained with."""
        self.part.load_state_dict(state_dict)

    def __getattr__(self, name: str) -> Any:
        """Passes on sizes, label names and other attributes of the split data."""
        part = self.__dict__.get("part")
        if part is None or name.startswith("__"):
            raise AttributeError(f"FoldData has no {name!r} before setup")
        return getattr(part, name)


def fold_config(config: dict[str, Any], fold: int, cut: Cut) -> dict[str, Any]:
    """The config that fits one fold of a cross-validation alone, from the resolved config of the whole."""
    trainer = {**config["trainer"], "fit_loop": None}
    for slot in ("validate_loop", "test_loop", "predict_loop"):
        if short_class_name((trainer.get(slot) or {}).get("class_path") or "").startswith("KFold"):
            trainer[slot] = None
    data = {"class_path": "FoldData", "init_args": {"data": config["data"], "fold": fold, **cut}}
    return {**config, "trainer": trainer, "data": data}
