"""Small configs of lesson 18, which train in seconds."""

from pathlib import Path
from typing import Any

from support import changed


def vision_config(**changes: Any) -> dict[str, Any]:
    """A config that trains in seconds on a few digits on photographs.

    Args:
        **changes: dotted keys with ``__`` for the dots.
    """
    config: dict[str, Any] = {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 4,
            "log_every_n_steps": 1,
            "callbacks": [{"class_path": "RunCheckpoint", "init_args": {"every_n_train_steps": 3}}],
        },
        "model": {
            "class_path": "ClassifierSegmenter",
            "init_args": {
                "encoder": {"class_path": "ConvEncoder", "init_args": {"widths": [8, 16]}},
                "dropout": 0.2,
                "lr_scheduler": {"class_path": "WarmupHoldDecay"},
            },
        },
        "data": {
            "class_path": "VisionData",
            "init_args": {
                "image_size": 16,
                "batch_size": 40,
                "val_size": 60,
                "test_size": 4540,
                "augment": {
                    "class_path": "Albumentations",
                    "init_args": {"transforms": [{"Affine": {"rotate": [-10, 10]}}, {"InvertImg": None}]},
                },
            },
        },
    }
    return changed(config, changes)


def folder_config(
    root: Path, *callbacks: str, widths: tuple[int, ...] = (8, 8), max_epochs: int = 2, **data: Any
) -> dict[str, Any]:
    """`vision_config` on a user's folder of images and masks, with these callbacks beside `RunCheckpoint`."""
    return vision_config(
        data={"class_path": "VisionData", "init_args": {"source": "mask_folder", "root": str(root), **data}},
        model__init_args__encoder__init_args={"widths": list(widths)},
        trainer__callbacks=[{"class_path": name} for name in ("RunCheckpoint", *callbacks)],
        trainer__max_epochs=max_epochs,
    )


def averaged(name: str, **arguments: Any) -> dict[str, Any]:
    """The callbacks of `vision_config` with an average."""
    callback = {"class_path": name, "init_args": {"start": 0.3, **arguments}}
    return {"trainer__callbacks": [*vision_config()["trainer"]["callbacks"], callback]}
