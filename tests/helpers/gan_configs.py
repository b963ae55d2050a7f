"""Small configs of lesson 13, which train in seconds."""

from typing import Any

from support import changed

ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3, "betas": [0.0, 0.9]}}
MODELS = ("GAN", "WGANGP", "R3GAN")


def points_config(model: str = "R3GAN", **changes: Any) -> dict[str, Any]:
    """A model of the lesson on 9 Gaussians.

    Args:
        model: ``GAN``, ``WGANGP`` or ``R3GAN``.
        **changes: dotted keys with ``__`` for the dots, such as ``trainer__max_epochs=1``.
    """
    config: dict[str, Any] = {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 3,
            "log_every_n_steps": 1,
            "callbacks": [
                {
                    "class_path": "RunCheckpoint",
                    "init_args": {"monitor": "val/mode_tv", "every_n_train_steps": 7},
                }
            ],
        },
        "model": {
            "class_path": model,
            "init_args": {
                "generator": {"class_path": "PointGenerator", "init_args": {"hidden": [16, 16]}},
                "discriminator": {"class_path": "PointDiscriminator", "init_args": {"hidden": [16, 16]}},
                "quality": {"class_path": "GaussianQuality"},
                "generator_optimizer": ADAM,
                "discriminator_optimizer": ADAM,
                "generator_lr_scheduler": {"class_path": "WarmupCosine"},
                "discriminator_lr_scheduler": {"class_path": "WarmupCosine"},
            },
        },
        "data": {
            "class_path": "GaussianGrid",
            "init_args": {"side": 3, "n_train": 410, "n_val": 101, "n_test": 65, "batch_size": 40},
        },
    }
    return changed(config, changes)


def images_config(model: str = "R3GAN", **changes: Any) -> dict[str, Any]:
    """The same on the 8x8 digits, with the convolutional networks."""
    config = points_config(model)
    config["trainer"]["callbacks"][0]["init_args"]["monitor"] = "val/frechet"
    arguments = config["model"]["init_args"]
    size = {"image_size": 8}
    arguments["generator"] = {"class_path": "ConvGenerator", "init_args": {**size, "latent_dim": 8, "widths": [16, 8]}}
    arguments["discriminator"] = {"class_path": "ConvDiscriminator", "init_args": {**size, "widths": [8, 16]}}
    features = {"class_path": "FeatureNetwork", "init_args": {"widths": [8, 16], "features": 16}}
    arguments["quality"] = {"class_path": "ImageQuality", "init_args": {"features": features}}
    config["data"] = {"class_path": "RealImages", "init_args": {"source": "digits", "batch_size": 64, "test_size": 101}}
    return changed(config, changes)
