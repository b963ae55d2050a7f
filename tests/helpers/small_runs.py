"""A run of ten steps, and the learning rates that it logged."""

from typing import Any

from plcourse import Run
from support import digits_config

EPOCH = 5  # steps: 1,257 training digits in batches of 256


def small(**changes: Any) -> dict[str, Any]:
    """A perceptron on the digits, two epochs of five steps."""
    quiet = {"enable_progress_bar": False, "num_sanity_val_steps": 0, "logger": False, "log_every_n_steps": 1}
    config = digits_config(
        **{
            "trainer__max_epochs": 2,
            "model__init_args__network": {"class_path": "MLP", "init_args": {"hidden": [8]}},
            "model__init_args__optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
            "model__init_args__lr_scheduler": None,
            "data__init_args__batch_size": 256,
            "data__init_args__augment": None,
            **changes,
        }
    )
    config["trainer"] |= quiet
    return config


def rates(run: Run, name: str = "train/lr") -> list[float]:
    """The learning rate of each step."""
    return [row["value"] for row in run.metrics if row["metric"] == name]
