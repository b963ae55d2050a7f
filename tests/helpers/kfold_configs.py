"""Small cross-validations that the tests of lesson 14 share."""

from typing import Any

from support import changed

SEED = 3


def kfold_config(callbacks: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """Three folds of the digits for an MLP with dropout on augmented images: whatever draws, draws here.

    Args:
        callbacks: further ones.
        **changes: dotted keys with ``__`` for the dots.
    """
    slots = {"validate_loop": "KFoldValidationLoop", "test_loop": "KFoldTestLoop", "predict_loop": "KFoldPredictLoop"}
    config: dict[str, Any] = {
        "seed_everything": SEED,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 2,
            "log_every_n_steps": 4,
            "fit_loop": {"class_path": "KFoldLoop", "init_args": {"n_splits": 3, "monitor": "val/loss"}},
            **{slot: {"class_path": name} for slot, name in slots.items()},
            "callbacks": [{"class_path": "RunCheckpoint", "init_args": {}}, *(callbacks or [])],
        },
        "model": {
            "class_path": "ImageClassifier",
            "init_args": {"network": {"class_path": "MLP", "init_args": {"hidden": [32], "dropout": 0.2}}},
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


def own_config(**data: Any) -> dict[str, Any]:
    slots = {"validate_loop": "KFoldValidationLoop", "test_loop": "KFoldTestLoop", "predict_loop": "KFoldPredictLoop"}
    loop = {"class_path": "KFoldLoop", "init_args": {"n_splits": 3}}
    return {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "fit_loop": loop,
            **{slot: {"class_path": name} for slot, name in slots.items()},
        },
        "model": {"class_path": "own_kfold.Linear"},
        "data": {"class_path": "own_kfold.Points", "init_args": data},
    }
