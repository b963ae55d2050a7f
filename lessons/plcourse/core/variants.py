"""How an evaluation differs from its run as it was trained, and where its results go.

`eval/test.json`, `predictions/` and `plots/` belong to the run as it was trained. An evaluation with another checkpoint
or other settings is a *variant*: it has a name, made of what differs, and files and folders that carry it, so that it
never replaces the results of the run itself. No torch here.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from plcourse.core.configs import ConfigSource, find_config, parse_config
from plcourse.core.differences import differences
from plcourse.core.errors import UserError
from plcourse.core.flags import as_flags, inline
from plcourse.core.runs import Run

CHECKPOINT = "ckpt_path"
# These say how the work is done. What comes out is the same, so they are recorded, but make no variant.
_HOW = re.compile(
    r"trainer\.(devices|num_nodes|strategy|accelerator|logger|profiler|enable_progress_bar|enable_model_summary)\b"
    r"|data\.init_args\.num_workers$"
)
_LETTERS = str.maketrans("0123456789", "ghijklmnop")  # a name never ends like the number of an older copy
_LONGEST = 48
_NEWEST = "newest-"  # begins the names of links to the predictions of a variant


@dataclass(frozen=True)
class Variant:
    """What an evaluation was asked for beyond what its run's config says.

    Attributes:
        settings: dotted keys of the config and their values; ``ckpt_path`` is the name or path of the checkpoint.
        trust: modules that the command let in.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    trust: Sequence[str] = ()

    @classmethod
    def of(cls, run: Run, config: str, checkpoint: Path | None, trust: Sequence[str] = ()) -> "Variant":
        """Compares a request with the run that it evaluates.

        Args:
            run: the run.
            config: the complete config of the request as YAML.
            checkpoint: the file to evaluate, None for none.
            trust: modules that the request lets in.
        """
        settings: dict[str, Any] = {}
        if checkpoint is not None and (name := _checkpoint_name(run, checkpoint)):
            settings[CHECKPOINT] = name
        if run.config_path.is_file():
            recorded = parse_config(find_config(str(run.config_path)))
            asked = parse_config(ConfigSource("command", "this command", config, packaged=False))
            for key in differences(recorded, asked):
                whole = re.split(r"\.\d+(?:\.|$)", key)[0]  # a flag sets a whole list, not one of its elements
                settings[whole] = _lookup(asked, whole)
        return cls(settings, tuple(trust))

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


def show_newest(run: Path, name: str) -> None:
    """Lets ``predictions/`` hold the newest predictions of a run that has made none as it was trained.

    They are links to the files in the folder of their variant, which stays as it is.

    Args:
        run: the run's folder.
        name: the variant that was predicted.
    """
    top, own = predictions_folder(run), predictions_folder(run, name)
    if (top / "_manifest.json").is_file():
        return
    hide_newest(run)
    for path in own.glob("part-*"):
        try:
            (top / f"{_NEWEST}{path.name}").hardlink_to(path)
        except OSError:  # a file system without links
            shutil.copyfile(path, top / f"{_NEWEST}{path.name}")


def hide_newest(run: Path) -> None:
    """Clears ``predictions/`` of what `show_newest` put there, before the run is predicted as it was trained."""
    for path in predictions_folder(run).glob(f"{_NEWEST}*"):
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Evaluation:
    """The newest evaluation of one part with the same settings.

    Attributes:
        stage: val or test.
        file: where it is.
        settings: in what it differs from the run as it was trained.
        content: what the file holds.
    """

    stage: str
    file: Path
    settings: dict[str, Any]
    content: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        """The scores by name."""
        found = self.content.get("metrics")
        return found if isinstance(found, dict) else {}

    @property
    def is_variant(self) -> bool:
        """Whether it is another evaluation than that of the run as it was trained."""
        return bool(Variant(self.settings).name)


def evaluations(run: Run) -> list[Evaluation]:
    """The newest evaluation of each part and each variant, those of the run as it was trained first.

    Raises:
        UserError: a file that cannot be read.
    """
    found: list[Evaluation] = []
    for file in sorted((run.path / "eval").glob("*.json")):
        if re.search(r"-\d+$", file.stem):  # an older one of the same settings
            continue
        content = run.eval(file.stem)
        settings = content.get("settings")
        stage = content.get("stage") or file.stem
        found.append(Evaluation(str(stage), file, settings if isinstance(settings, dict) else {}, content))
    return sorted(found, key=lambda each: (each.is_variant, each.stage))


def prediction_sets(run: Run) -> list[tuple[Path, dict[str, Any]]]:
    """The folders with finished predictions and their manifests, that of the run as it was trained first."""
    top = predictions_folder(run.path)
    found = []
    for folder in [top, *sorted(path for path in top.glob("_*") if path.is_dir())]:
        try:
            manifest = json.loads((folder / "_manifest.json").read_bytes())
        except OSError:
            continue
        except ValueError as error:
            raise UserError(f"'{folder / '_manifest.json'}' is not valid JSON: {error}") from error
        if isinstance(manifest, dict):
            found.append((folder, manifest))
    return found


def said(settings: Mapping[str, Any], longest: int = 60) -> str:
    """Settings as a person reads them, long values cut short."""
    parts = []
    for key, value in settings.items():
        text = inline(value)
        if len(text) > longest:
            text = re.sub(r"[\w.]+\.(\w+)", r"\1", text)  # the modules of classes
        parts.append(f"{key}={text if len(text) <= longest else text[: longest - 3] + '...'}")
    return ", ".join(parts)


def command(verb: str, run: Path, root: Path | None, settings: Mapping[str, Any], trust: Iterable[str]) -> str:
    """The command line that evaluates a run with some settings, ready to be pasted.

    Args:
        verb: test, validate or predict.
        run: the run's folder.
        root: the root of its runs, None if it does not matter.
        settings: dotted keys and values; ``ckpt_path`` for another checkpoint than the best.
        trust: modules to let in.
    """
    words = ["plcourse", verb, "--run", str(run), *as_flags(dict(settings)), *environment_flags(root, trust)]
    return shlex.join(words)


def environment_flags(root: Path | None, trust: Iterable[str]) -> list[str]:
    """The flags ``--runs_root`` and ``--trust`` where a command needs them."""
    flags = []
    default = Path(os.environ.get("PLCOURSE_RUNS") or "runs").expanduser()
    if root is not None and root.resolve() != default.resolve():
        flags += ["--runs_root", str(root)]
    for module in dict.fromkeys(trust):
        flags += ["--trust", module]
    return flags


def _checkpoint_name(run: Run, checkpoint: Path) -> str:
    """A checkpoint's name in its run, its path elsewhere; empty for the best one."""
    if checkpoint.resolve().parent != (run.path / "checkpoints").resolve():
        return str(checkpoint)
    return "" if checkpoint.stem == "best" else checkpoint.stem


def _lookup(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


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
