"""What an evaluation changes compared with its run as it was trained, and the names and folders that follow from it.

`eval/test.json`, `predictions/` and `plots/` belong to the run as it was trained. An evaluation with another checkpoint
or other settings is a *variant*: it is named after what differs, and its files and folders carry that name, so that it
never replaces the results of the run itself. No torch here.
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
# These say how the work is done. What comes out is the same, so they are recorded, but make no variant.
_HOW = re.compile(
    r"trainer\.(devices|num_nodes|strategy|accelerator|logger|profiler|enable_progress_bar|enable_model_summary)\b"
    r"|data\.init_args\.num_workers$"
)
_LETTERS = str.maketrans("0123456789", "ghijklmnop")  # a name never ends like the number of an older copy
_LONGEST = 48


@dataclass(frozen=True)
class Variant:
    """What an evaluation was asked for beyond what its run's config says.

    Attributes:
        settings: dotted keys of the config and their values; ``ckpt_path`` is the name or path of the checkpoint.
        trust: modules that the command let in.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    trust: Sequence[str] = ()

    @cached_property
    def name(self) -> str:
        """A name for files; empty for the run as it was trained."""
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
        """The settings as a person reads them, such as ``ckpt_path=last, data.init_args.split_seed=7``."""
        return said(self.settings)

    def file_stem(self, stage: str) -> str:
        """The name of an evaluation's file without its ending, such as ``test`` or ``test-last``."""
        return f"{stage}-{self.name}" if self.name else stage

    def folder(self, run: Path, verb: str) -> Path:
        """Where an evaluation leaves pictures and other files: the run's folder, or one of the variant's own.

        Args:
            run: the run's folder.
            verb: what is running, as ``trainer.state.fn`` names it: fit, validate, test or predict.
        """
        if not self.name:
            return run
        if verb == "predict":
            return predictions_folder(run, self.name) / "_pictures"  # passed over by readers of the table
        return run / "eval" / self.file_stem({"validate": "val"}.get(verb, verb))


AS_TRAINED = Variant()


def results_folder(trainer: Any) -> Path:
    """The folder that what runs now may write pictures and other files into."""
    variant: Variant = getattr(trainer, "variant", AS_TRAINED)
    return variant.folder(Path(trainer.default_root_dir), str(getattr(trainer.state.fn, "value", trainer.state.fn)))


def predictions_folder(run: Path, name: str = "") -> Path:
    """Where the predictions of a variant are; those of the run itself without a name.

    The underscore keeps readers that take the whole of ``predictions/`` as one table from mixing them.
    """
    return run / "predictions" / f"_{name}" if name else run / "predictions"


def said(settings: Mapping[str, Any], longest: int = 60) -> str:
    """Settings as a person reads them, long values cut short."""
    parts = []
    for key, value in settings.items():
        text = inline(value)
        if len(text) > longest:
            text = re.sub(r"[\w.]+\.(\w+)", r"\1", text)  # the modules of classes
        parts.append(f"{key}={text if len(text) <= longest else text[: longest - 3] + '...'}")
    return ", ".join(parts)


def _word(key: str, value: Any) -> str:
    """One setting as a part of a file's name."""
    if isinstance(value, list):
        first = _plain(value[0]) if value else "none"
        value = first if len(value) < 2 else f"{first}+{len(value) - 1}"
    value = _plain(value)
    text = Path(str(value)).name if isinstance(value, str) else str(value)
    label = "" if key == CHECKPOINT else f"{key.rpartition('.')[2]}-"
    return re.sub(r"[^\w.+-]+", "-", f"{label}{text}", flags=re.ASCII)


def _plain(value: Any) -> Any:
    """The class's own name of a class with arguments."""
    return str(value["class_path"]).rpartition(".")[2] if isinstance(value, dict) and "class_path" in value else value
