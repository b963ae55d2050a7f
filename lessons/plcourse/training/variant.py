"""How an evaluation differs from its run as it was trained, and the resulting names and folders. Needs no torch.

`eval/test.json`, `predictions/` and `plots/` belong to the run as it was trained. An evaluation with another checkpoint
or other settings is a *variant*. Its files and folders have a name that says what differs, so that it never replaces
the results of the run.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from plcourse.console.flags import inline

CHECKPOINT = "ckpt_path"
# These settings change how the work is done but not its result, so they are recorded but do not define a variant.
_HOW = re.compile(
    r"trainer\.(devices|num_nodes|strategy|accelerator|logger|profiler|enable_progress_bar|enable_model_summary)\b"
    r"|data\.init_args\.num_workers$"
)
_LETTERS = str.maketrans("0123456789", "ghijklmnop")  # so that no name ends like the number of an older copy
_LONGEST = 48


@dataclass(frozen=True)
class Variant:
    """The settings of an evaluation that differ from its run's config."""

    # Dotted keys of the config and their values; ``ckpt_path`` is the name or path of the checkpoint.
    settings: Mapping[str, Any] = field(default_factory=dict)
    trust: Sequence[str] = ()  # modules that the command trusts

    @cached_property
    def name(self) -> str:
        """Its name in files and folders; empty for the run as it was trained."""
        decisive = {key: value for key, value in self.settings.items() if not _HOW.match(key)}
        if not decisive:
            return ""
        if decisive in ({CHECKPOINT: "last"}, {CHECKPOINT: "best"}):
            return decisive[CHECKPOINT]
        words = "_".join(_word(key, value) for key, value in decisive.items())
        text = json.dumps(decisive, sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=3).hexdigest().translate(_LETTERS)
        return f"{words[:_LONGEST].strip('-.')}-{digest}"

    @property
    def said(self) -> str:
        """The settings as text, such as ``ckpt_path=last, data.init_args.split_seed=7``."""
        return said(self.settings)

    def file_stem(self, stage: str) -> str:
        """Returns the name of an evaluation's file without its suffix, such as ``test`` or ``test-last``."""
        return f"{stage}-{self.name}" if self.name else stage

    def folder(self, run: Path, verb: str) -> Path:
        """Returns the folder for files of an evaluation, below that of the run; ``verb`` is ``trainer.state.fn``."""
        if not self.name:
            return run
        if verb == "predict":
            return predictions_folder(run, self.name) / "_pictures"  # readers of the table skip it
        return run / "eval" / self.file_stem({"validate": "val"}.get(verb, verb))


AS_TRAINED = Variant()


def results_folder(trainer: Any) -> Path:
    """Returns the folder for pictures and other files of what the trainer runs now."""
    variant: Variant = getattr(trainer, "variant", AS_TRAINED)
    return variant.folder(Path(trainer.default_root_dir), str(getattr(trainer.state.fn, "value", trainer.state.fn)))


def predictions_folder(run: Path, name: str = "") -> Path:
    """Returns the folder of a variant's predictions; without a name, that of the run.

    Readers that take all of ``predictions/`` as one table skip folders that begin with an underscore.
    """
    return run / "predictions" / f"_{name}" if name else run / "predictions"


def said(settings: Mapping[str, Any], longest: int = 60) -> str:
    """Returns settings as text, with long values shortened."""
    parts = []
    for key, value in settings.items():
        text = inline(value)
        if len(text) > longest:
            text = re.sub(r"[\w.]+\.(\w+)", r"\1", text)  # removes the modules of classes
        parts.append(f"{key}={text if len(text) <= longest else text[: longest - 3] + '...'}")
    return ", ".join(parts)


def _word(key: str, value: object) -> str:
    """Returns one setting as part of a file name."""
    if isinstance(value, list):
        first = _plain(value[0]) if value else "none"
        value = first if len(value) < 2 else f"{first}+{len(value) - 1}"
    value = _plain(value)
    text = Path(str(value)).name if isinstance(value, str) else str(value)
    label = "" if key == CHECKPOINT else f"{key.rpartition('.')[2]}-"
    return re.sub(r"[^\w.+-]+", "-", f"{label}{text}", flags=re.ASCII)


def _plain(value: object) -> object:
    """Returns a class name instead of a class with arguments."""
    return str(value["class_path"]).rpartition(".")[2] if isinstance(value, dict) and "class_path" in value else value
