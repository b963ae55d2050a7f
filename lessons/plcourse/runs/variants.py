"""The evaluations and predictions of a run: their settings, their main score, and commands that repeat them. No torch.

`plcourse.training.variant` explains variants.
"""

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plcourse.console.flags import as_flags
from plcourse.files import link_or_copy
from plcourse.runs.config_yaml import lookup, parse_config
from plcourse.runs.configs import ConfigSource, find_config
from plcourse.runs.differences import differences
from plcourse.runs.prediction_files import MANIFEST, PARTIAL
from plcourse.runs.record import read_object
from plcourse.runs.run import Run
from plcourse.training.variant import CHECKPOINT, Variant, predictions_folder

_NEWEST = "newest-"  # prefix of links to the predictions of a variant
_FIRST = ("accuracy", "foreground_iou")
# Words in a metric's name that tell which way is better.
_SMALLER = re.compile(
    ".*(loss|error|nll|perplexity|distance|seconds|time)|ece|ppl|mse|mae|rmse|brier|fid|kid|mmd|frechet|latency|bits"
)
_LARGER = re.compile("accuracy|acc|f1|precision|recall|auc|auroc|ap|iou|dice|score|bleu|coverage|throughput|r2")


def variant_of(run: Run, config: str, checkpoint: Path | None, trust: Sequence[str] = ()) -> Variant:
    """Compares a request with the run that it evaluates; `config` is the complete config of the request as YAML."""
    settings: dict[str, Any] = {}
    if checkpoint is not None:
        is_own = checkpoint.resolve().parent == (run.path / "checkpoints").resolve()
        if not is_own or checkpoint.stem != "best":
            settings[CHECKPOINT] = checkpoint.stem if is_own else str(checkpoint)
    if run.config_path.is_file():
        recorded = parse_config(find_config(str(run.config_path)))
        asked = parse_config(ConfigSource("command", "this command", config, packaged=False))
        for key in differences(recorded, asked):
            whole = re.split(r"\.\d+(?:\.|$)", key)[0]  # a flag sets a whole list
            settings[whole] = lookup(asked, whole)
    return Variant(settings, tuple(trust))


def show_newest(run: Path, name: str) -> None:
    """Links the predictions of a variant into ``predictions/``, unless the run has predictions as it was trained."""
    top, own = predictions_folder(run), predictions_folder(run, name)
    if (top / MANIFEST).is_file():
        return
    hide_newest(run)
    for path in own.glob("part-*"):
        link_or_copy(path, top / f"{_NEWEST}{path.name}")


def hide_newest(run: Path) -> None:
    """Removes the links of `show_newest`, before a prediction of the run as it was trained."""
    for path in predictions_folder(run).glob(f"{_NEWEST}*"):
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Evaluation:
    """The newest evaluation of the validation or test part with given settings."""

    stage: str  # val or test
    file: Path
    settings: dict[str, Any]  # those that differ from the run as it was trained
    content: dict[str, Any]  # of the file

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
    candidates = [top, *sorted(path for path in top.glob("_*") if path.is_dir() and path.name != PARTIAL)]
    manifests = [folder / MANIFEST for folder in candidates]
    return [(path.parent, read_object(path, "a manifest")) for path in manifests if path.is_file()]


def headline(metrics: Iterable[str], monitored: str | None = None) -> str | None:
    """Returns the name of the score to show first, None if there is none.

    That is the accuracy, else the IoU, else the metric that the checkpoint was chosen by (`monitored`), else the
    first that is not a baseline's.
    """
    names = list(metrics)
    by_base = {name.partition("/")[2]: name for name in reversed(names)}
    for base in (*_FIRST, str(monitored).partition("/")[2]):
        if base in by_base:
            return by_base[base]
    return next((name for name in names if not _is_secondary(name, names)), next(iter(names), None))


def mode_of(metric: str) -> str | None:
    """Returns `min` or `max`, the direction in which a metric is better by the words of its name; None if unknown."""
    words = re.split(r"[/_\W]+", metric.rpartition("/")[2].lower())
    smaller, larger = (any(map(known.fullmatch, words)) for known in (_SMALLER, _LARGER))
    return None if smaller == larger else "min" if smaller else "max"


def test_score(run: Run, record: Mapping[str, object]) -> tuple[str, float] | None:
    """Returns name and value of a run's main test score; None if the run was not tested as it was trained."""
    found = next((each for each in evaluations(run) if each.stage == "test" and not each.is_variant), None)
    return None if found is None else score_of(found, record)


def score_of(evaluation: Evaluation, record: Mapping[str, object]) -> tuple[str, float] | None:
    """Returns name and value of the main score of an evaluation."""
    best = record.get("best")
    name = headline(evaluation.metrics, best.get("metric") if isinstance(best, dict) else None)
    value = evaluation.metrics.get(name) if name is not None else None
    return (name, value) if name is not None and isinstance(value, int | float) else None


def what_next(run: Run, done: Sequence[str], trust: Sequence[str]) -> list[str]:
    """Returns the last lines of a fit: where the run is, and commands that can follow, without the verbs in `done`."""
    record = run.record
    lines = [f"\nfinished: {run.path}"]
    if (run.path / "checkpoints").is_dir():
        known = record.get("data")
        empty = isinstance(known, dict) and known.get("n_test") == 0
        possible = record.get("verbs", [] if empty else ["test", "predict"])
        lines += [f"  {command(verb, run.path, run.root, {}, trust)}" for verb in possible if verb not in done]
    lines.append(f"  {shlex.join(['plcourse', 'report', str(run.path), *environment_flags(run.root, [])])}")
    if (run.path / "tensorboard").is_dir():
        lines.append(f"  {shlex.join(['tensorboard', '--logdir', str(run.path / 'tensorboard')])}")
    return lines


def command(verb: str, run: Path, root: Path | None, settings: Mapping[str, object], trust: Iterable[str]) -> str:
    """Returns a command that evaluates a run, ready to be pasted; ``ckpt_path`` in the settings names a checkpoint."""
    words = ["plcourse", verb, "--run", str(run), *as_flags(dict(settings)), *environment_flags(root, trust)]
    return shlex.join(words)


def environment_flags(root: Path | None, trust: Iterable[str]) -> list[str]:
    """Returns the flags ``--runs_root`` and ``--trust`` if a command needs them."""
    default = Path(os.environ.get("PLCOURSE_RUNS") or "runs").expanduser()
    flags = ["--runs_root", str(root)] if root is not None and root.resolve() != default.resolve() else []
    for module in dict.fromkeys(trust):
        flags += ["--trust", module]
    return flags


def _is_secondary(name: str, names: Iterable[str]) -> bool:
    """Returns whether a score only accompanies another one.

    It can be that of a baseline, such as ``test/ngram_bits_per_character`` beside ``test/bits_per_character``, a
    difference from a baseline, or the limit of an interval.
    """
    stage, _, base = name.partition("/")
    if base.startswith("minus_") or base.endswith(("_low", "_high", "_p")):
        return True
    others = (other.partition("/")[2] for other in names if other.startswith(f"{stage}/") and other != name)
    return any(base.endswith(f"_{other}") for other in others)
