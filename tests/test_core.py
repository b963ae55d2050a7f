"""A user's module that was written for 0.1.0 still imports what the guides of 0.1.0 told it to."""

import subprocess
import sys

import pytest

import plcourse.data
from plcourse.data import image_splits
from plcourse.training import loops

CODE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from plcourse.core.checkpoint import RunCheckpoint, load
    from plcourse.core.data import ImageParts, ImageSet, MaskParts, MaskSet, Splittable, eval_loader
    from plcourse.core.data.parts import ImageParts as same
    from plcourse.core.data.samplers import TrainSampler
    from plcourse.core.exportable import Exportable
    from plcourse.core.loops import EpochLoop, FitLoop, PredictLoop, TestLoop, ValidationLoop
    from plcourse.core.metrics import ClassificationScores
    from plcourse.core.schedules import WarmupCosine
    import plcourse.core.data.folder
told = [str(each.message) for each in caught if each.category is DeprecationWarning and "plcourse" in str(each.message)]
assert told == ["plcourse.core is deprecated since 0.2.0: import from plcourse.data and plcourse.training"], told
print(ImageParts is same, ImageParts.__module__, FitLoop.__module__)
"""


@pytest.mark.medium
def test_imports_of_0_1_0_work_and_warn_once() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", image_splits.__name__, loops.__name__]


def test_nothing_of_the_suite_imports_them() -> None:
    assert "plcourse.core" not in sys.modules
    assert not hasattr(plcourse.data, "ImageParts")
