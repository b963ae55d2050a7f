"""Finds and compares the evaluations of a run; `plcourse.training.variant` explains variants. No torch."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plcourse.console.flags import as_flags
from plcourse.errors import UserError
from plcourse.runs.config_keys import lookup
from plcourse.runs.config_yaml import parse_config
from plcourse.runs.configs import ConfigSource, find_config
from plcourse.runs.differences import differences
from plcourse.runs.run import Run
from plcourse.training.variant import CHECKPOINT, Variant, predictions_folder

_NEWEST = "newest-"  # prefix of links to the predictions of a variant


def variant_of(run: Run, config: str, checkpoint: Path | None, trust: Sequence[str] = ()) -> Variant:
    """Compares a request with the run that it evaluates.

    Args:
        run: the run.
        config: the complete config of the request as YAML.
        checkpoint: the file to evaluate, if any.
        trust: modules that the request allows.
    """
    settings: dict[str, Any] = {}
    if checkpoint is not None and (name := _checkpoint_name(run, checkpoint)):
        settings[CHECKPOINT] = name
    if run.config_path.is_file():
        recorded = parse_config(find_config(str(run.config_path)))
        asked = parse_config(ConfigSource("command", "this command", config, packaged=False))
        for key in differences(recorded, asked):
            whole = re.split(r"\.\d+(?:\.|$)", key)[0]  # a flag sets a whole list
            settings[whole] = lookup(asked, whole)
    return Variant(settings, tuple(trust))


def show_newest(run: Path, name: str) -> None:
    """Links the predictions of a variant into ``predictions/``, unless the run has predictions as it was trained.

    Args:
        run: the run's folder.
        name: the variant.
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
    """Removes the links of `show_newest`, before a prediction of the run as it was trained."""
    for path in predictions_folder(run).glob(f"{_NEWEST}*"):
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Evaluation:
    """The newest evaluation of one part with given settings.

    Attributes:
        stage: val or test.
        file: its file.
        settings: how it differs from the run as it was trained.
        content: the contents of the file.
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
        """Whether it differs from the evaluation of the run as it was trained."""
        return bool(Variant(self.settings).name)


def evaluations(run: Run) -> list[Evaluation]:
    """Returns the newest evaluation of each part and variant; those of the run as it was trained come first.

    Raises:
        UserError: a file cannot be read.
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
    """Returns folders of complete predictions with their manifests; that of the run as it was trained comes first."""
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


def command(verb: str, run: Path, root: Path | None, settings: Mapping[str, Any], trust: Iterable[str]) -> str:
    """Returns a command that evaluates a run with some settings, ready to be pasted.

    Args:
        verb: test, validate or predict.
        run: the run's folder.
        root: the root folder of all runs, None if it does not matter.
        settings: dotted keys and values; ``ckpt_path`` names a checkpoint other than the best.
        trust: modules to allow.
    """
    words = ["plcourse", verb, "--run", str(run), *as_flags(dict(settings)), *environment_flags(root, trust)]
    return shlex.join(words)


def environment_flags(root: Path | None, trust: Iterable[str]) -> list[str]:
    """Returns the flags ``--runs_root`` and ``--trust`` if a command needs them."""
    flags = []
    default = Path(os.environ.get("PLCOURSE_RUNS") or "runs").expanduser()
    if root is not None and root.resolve() != default.resolve():
        flags += ["--runs_root", str(root)]
    for module in dict.fromkeys(trust):
        flags += ["--trust", module]
    return flags


def _checkpoint_name(run: Run, checkpoint: Path) -> str:
    """The name of a checkpoint in its run, or its path; empty for the best one."""
    if checkpoint.resolve().parent != (run.path / "checkpoints").resolve():
        return str(checkpoint)
    return "" if checkpoint.stem == "best" else checkpoint.stem
