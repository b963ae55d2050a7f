"""Folders of runs with scores, for `plcourse compare`."""

import json
from pathlib import Path
from typing import Any, Literal

import yaml

from plcourse.runs.run import Run

BASE = [0.975, 0.978, 0.979, 0.970, 0.981]
BETTER = [0.984, 0.988, 0.991, 0.979, 0.989]


def made(
    arm: str,
    accuracy: float | None,
    seed: int | None = 0,
    *,
    root: str | Path = "runs",
    steps: int | None = 100,
    status: Literal["running", "finished", "failed", "interrupted"] = "finished",
    seen: int = 1000,
    checkpoint: str = "best.ckpt",
    lr: float = 0.1,
    record: dict | None = None,
    **data: object,
) -> Run:
    """A run's folder with a config, a table of metrics and an evaluation."""
    run = Run.create(arm, root, {"verb": "fit", "seed": seed, **(record or {})})
    init = {"source": "mnist5k", "split_seed": 0, "val_size": 250, "test_size": 1000, **data}
    config = {
        "seed_everything": seed,
        "trainer": {"callbacks": [{"class_path": "C", "init_args": {"monitor": "val/odd", "mode": "min"}}]},
        "model": {"class_path": "M", "init_args": {"lr": lr}},
        "data": {"class_path": "D", "init_args": init},
    }
    run.config_path.write_text(yaml.safe_dump(config))
    if steps is not None:
        rows = f"9,0,val/loss,0.5\n{steps - 1},1,val/loss,{0.2 + (seed or 0) / 100}\n"
        (run.path / "metrics.csv").write_text(f"step,epoch,metric,value\n{rows}")
    if accuracy is not None:
        write_eval(run.path, accuracy, seen, checkpoint)
    if status != "running":
        run.finish(status, best={"metric": "val/odd", "value": 0.1 + (seed or 0) / 50, "step": 50, "epoch": 0})
    return run


def write_eval(folder: Path, accuracy: float, seen: int = 1000, checkpoint: str = "best.ckpt") -> None:
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    metrics = {"test/accuracy": accuracy, "test/loss": 1 - accuracy}
    content = {"metrics": metrics, "coverage": {"seen": seen}, "checkpoint": f"checkpoints/{checkpoint}"}
    (folder / "eval/test.json").write_text(json.dumps(content))


def series(arm: str, values: list[float], **options: Any) -> list[Run]:
    """One run per seed, counted from 0."""
    return [made(arm, value, seed, **options) for seed, value in enumerate(values)]


def paths(*runs: list[Run]) -> list[Path]:
    return [run.path for each in runs for run in each]


def two_arms(**options: object) -> list[Path]:
    return paths(series("ddp/base", BASE), series("ddp/tuned", BETTER, **options))


def sweep(cells: list[tuple[str, int, dict, float]], name: str = "lr", stamp: str = "20261123-101500", **more) -> Path:
    """A sweep's folder; each cell is a run below it."""
    folder = Path("runs/sweeps") / name / stamp
    folder.mkdir(parents=True)
    entries = []
    for arm, seed, grid, value in cells:
        run = made(arm, value, seed, root=folder, lr=grid.get("model.init_args.lr", 0.1))
        place = run.path.relative_to(folder).as_posix()
        entries.append({"arm": arm, "seed": seed, "grid": grid, "status": "finished", "run": place})
    arms = list(dict.fromkeys(cell[0] for cell in cells))
    metric = {"name": "test/accuracy", "mode": "max"}
    content = {"schema": 1, "name": name, "arms": arms, "metric": metric, "cells": entries, **more}
    (folder / "sweep.json").write_text(json.dumps(content))
    return folder


def only_test(report: dict) -> dict:
    [comparison] = report["comparisons"]
    [test] = comparison["tests"]
    return test
