"""The import paths of plcourse 0.1.0 that its guides documented, for users' modules that still contain them."""

import sys
import warnings
from importlib import import_module
from pkgutil import iter_modules

import plcourse.data
from plcourse.training.run_checkpoint import RunCheckpoint

__path__: list[str] = []  # makes `import plcourse.core.data` look for a registered module

_RENAMED_MODULES = {"image_folder": "folder", "image_splits": "parts", "mask_splits": "mask_parts"}
_RENAMED_CLASSES = {
    "plcourse.data": {"ImageParts": "ImageSplits", "ImageSet": "ImageDataset", "MaskParts": "MaskSplits"}
    | {"MaskSet": "MaskDataset", "Labelled": "Labeled"}
    | {"Normalisation": "Normalization", "fit_normalisation": "fit_normalization"},
    "plcourse.data.image_splits": {"ImageParts": "ImageSplits"},
    "plcourse.data.images": {"ImageSet": "ImageDataset"},
    "plcourse.data.mask_splits": {"MaskParts": "MaskSplits", "MaskSet": "MaskDataset"},
}
_TRAINING = ("callbacks", "checkpoint", "exportable", "loops", "metrics", "random_state", "schedules", "trainer")


def _register(new: str, old: str) -> None:
    module = sys.modules[f"plcourse.core.{old}"] = import_module(new)
    for alias, name in _RENAMED_CLASSES.get(new, {}).items():
        setattr(module, alias, getattr(module, name))


warnings.warn(
    "plcourse.core is deprecated since 0.2.0: import from plcourse.data and plcourse.training", DeprecationWarning, 2
)
_register("plcourse.errors", "errors")
_register("plcourse.data", "data")
for _module in iter_modules(plcourse.data.__path__):
    _register(f"plcourse.data.{_module.name}", f"data.{_RENAMED_MODULES.get(_module.name, _module.name)}")
for _name in _TRAINING:
    _register(f"plcourse.training.{_name}", _name)
vars(sys.modules["plcourse.core.checkpoint"])["RunCheckpoint"] = RunCheckpoint
