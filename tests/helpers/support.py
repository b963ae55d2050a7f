"""Small configs and names that the tests share."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

HELPERS = Path(__file__).parent
Command = Callable[..., subprocess.CompletedProcess[str]]


def changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Sets entries of a nested config in place and returns it; keys hold ``__`` for the dots."""
    for key, value in changes.items():
        *parents, last = key.split("__")
        place: Any = config
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return config


def digits_config(**changes: Any) -> dict[str, Any]:
    """A config that trains in seconds: a small ResNet with dropout on augmented digits.

    Args:
        **changes: dotted keys with ``__`` for the dots, such as ``trainer__max_epochs=1``.
    """
    config = {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 4,
            "log_every_n_steps": 5,
            "callbacks": [
                {
                    "class_path": "RunCheckpoint",
                    "init_args": {"monitor": "val/loss", "mode": "min", "every_n_train_steps": 7},
                }
            ],
        },
        "model": {
            "class_path": "ImageClassifier",
            "init_args": {
                "network": {
                    "class_path": "ResNet",
                    "init_args": {"widths": [8, 16], "dropout": 0.3},
                }
            },
        },
        "data": {
            "class_path": "ImageData",
            "init_args": {
                "source": "digits",
                "batch_size": 64,
                "augment": [{"class_path": "RandomAffine", "init_args": {"degrees": 10}}],
            },
        },
    }
    return changed(config, changes)


def write_config(path: Path, config: dict[str, Any]) -> Path:
    """Writes a config and returns its path."""
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


TWO_PROCESSES = {
    "trainer__devices": 2,
    "trainer__strategy": {
        "class_path": "DDPStrategy",
        "init_args": {"process_group_backend": "gloo", "timeout": "0:00:20"},
    },
    "data__init_args__batch_size": 32,
}


def final_state(run: Path) -> tuple[dict[str, Any], str]:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint, (run / "metrics.csv").read_text()


def assert_same_end(run: Path, reference: Path) -> None:
    """Weights, optimizer, schedule, random states, best score and the whole table, bit for bit."""
    (a, table_a), (b, table_b) = final_state(run), final_state(reference)
    assert table_a == table_b
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "epoch"):
        assert_equal(a[part], b[part], part)
    assert_equal(
        a["loops"]["fit_loop"]["state_dict"]["random_states"],
        b["loops"]["fit_loop"]["state_dict"]["random_states"],
        "random_states",
    )


def assert_equal(a: Any, b: Any, where: str = "run") -> None:
    """Compares nested dicts and lists of tensors and numbers, bit for bit; a failure names the place."""
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


def failing(config: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    config["trainer"]["callbacks"].append({"class_path": "faulty.FailAt", "init_args": arguments})
    return config


def kill_at_step(
    command: Command, tmp_path: Path, runs: Path, name: str, step: int, config: dict[str, Any]
) -> tuple[Path, Path]:
    """Kills a run of a config at a step, resumes it, and holds its end against that of a run left alone.

    Args:
        command: runs `plcourse`.
        tmp_path: where configs are written.
        runs: the root of the runs.
        name: of the run left alone, which is there once for several kills.
        step: at which the whole job gets SIGKILL.
        config: of both.

    Returns:
        The folders of the resumed run and of the one left alone.
    """
    reference = runs / "own" / f"reference_{name}" / "latest"
    if not reference.exists():
        command("fit", "-c", write_config(tmp_path / f"reference_{name}.yaml", config))
    marker = tmp_path / f"killed_{name}_{step}"
    path = write_config(tmp_path / f"{name}_{step}.yaml", failing(config, step=step, how="kill_job", once=str(marker)))
    command("fit", "-c", path, "--trust", "faulty", status=-9)
    assert marker.exists()
    latest = runs / "own" / f"{name}_{step}" / "latest"
    command("fit", "--run", latest, "--ckpt_path", "last", "--trust", "faulty")
    assert_same_end(latest, reference)
    return latest, reference


def processes_in(folder: Path) -> list[int]:
    """The other processes whose working directory is a folder, such as a command's and its ranks'."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and (process / "cwd").readlink() == folder.resolve():
                found.append(int(process.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def processes_with(marker: str) -> list[int]:
    """The processes whose environment holds a text, such as the folder of a test."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found
