"""The folder of one fold, which is a run folder, and what it takes from the folder of the whole run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from plcourse.files import atomic_write, write_json, write_text
from plcourse.kfold.fold_data import fold_config
from plcourse.kfold.folds import Cut, Fold, Plan
from plcourse.runs.config_yaml import read_tree, short_class_names, write_tree
from plcourse.runs.environment import environment
from plcourse.runs.record import SCHEMA, timestamp
from plcourse.runs.run import OUT_OF_FOLD, Run
from plcourse.training.checkpoint import BEST, LAST


class FoldRun:
    """The folder ``<run>/folds/<number>`` of one fold, which has the files of a run."""

    def __init__(self, fold: Fold, folder: Path) -> None:
        self.fold, self.path, self.run = fold, folder, Run(folder)

    @property
    def is_finished(self) -> bool:
        """Whether the fold has been trained and scored."""
        return (self.path / "run.json").is_file() and self.run.status == "finished"

    @property
    def best(self) -> Path | None:
        """The checkpoint with the fold's model; None if none was written."""
        return self._existing("checkpoints", BEST)

    @property
    def last(self) -> Path | None:
        """The checkpoint from which training resumes; None if none was written."""
        return self._existing("checkpoints", LAST)

    @property
    def scores(self) -> dict[str, float]:
        """Its scores on the held-out samples."""
        return self.run.eval("val")["metrics"]

    @property
    def out_of_fold(self) -> pa.Table | None:
        """Its predictions for the held-out samples; None if there are none."""
        path = self._existing("predictions", OUT_OF_FOLD)
        return None if path is None else pq.read_table(path)

    def open(self, parent: "ParentRun") -> None:
        """Writes ``run.json`` and ``config.yaml``, or marks an interrupted fold as running again; on rank 0 only."""
        self.path.mkdir(parents=True, exist_ok=True)
        now, number = timestamp(), self.fold.number
        if (self.path / "run.json").is_file():
            record: Mapping[str, Any] = self.run.record
        else:
            own = {"verb": "fit", "created": now, "best": None, "fold": number, "repeat": self.fold.repeat}
            record = {**parent.record, **own, "data": {**(parent.record.get("data") or {}), **self.fold.sizes}}
        process = {key: parent.record.get(key) for key in ("pid", "pid_start")}
        started = {"status": "running", "started": now, "ended": None, "seconds": None, "error": None}
        write_json(self.path / "run.json", {**record, **process, **started})
        if parent.config:
            write_text(self.run.config_path, write_tree(fold_config(parent.config, number, parent.cut)))

    def split(self, data: Any) -> Any:
        """The data module that trains on the fold's training samples and validates on the held-out ones."""
        return data.with_split(self.fold.train_ids, self.fold.val_ids)

    def _existing(self, folder: str, name: str) -> Path | None:
        path = self.path / folder / name
        return path if path.is_file() else None


@dataclass
class ParentRun:
    """What the folders of the folds take from the run they belong to."""

    record: Mapping[str, Any]  # its run.json, or a record of this environment if there is none
    config: dict[str, Any]  # its config.yaml; empty if there is none
    cut: Cut

    @classmethod
    def of(cls, folder: Path, plan: Plan) -> "ParentRun":
        """Reads the files of the run."""
        run = Run(folder)
        record = run.record if (folder / "run.json").is_file() else {"schema": SCHEMA, **environment()}
        return cls(record, read_config(run.config_path), plan.cut)


def read_config(file: Path) -> dict[str, Any]:
    """A resolved config with short class names; empty if the file does not exist."""
    return short_class_names(read_tree(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a Parquet file atomically."""
    with atomic_write(path) as temporary:
        path.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as file:
            pq.write_table(table, file)
