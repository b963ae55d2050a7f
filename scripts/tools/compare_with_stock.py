"""Compares Lightning's Trainer and CLI with the suite's, over many settings, bit for bit.

    python scripts/tools/compare_with_stock.py              # all settings; writes the table in lessons/results.md
    python scripts/tools/compare_with_stock.py Timer SWA    # those whose kind or name contains one of these words

Each setting is a config that `LightningCLI` and `plcourse fit` run as it is, in this process, with the same seed. Both
read the data in the same order. Compared are the loss of each training step, the final weights and buffers, the states
of optimizers and schedules, all rows that a logger got, the metrics of the callbacks, the counters, and what the
callbacks of the setting kept: their states and the weights in their checkpoints. Tensors must be equal by
`torch.equal`, everything else by ``==``.
"""

import argparse
import contextlib
import copy
import datetime
import io
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from platform import python_version
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import _common
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI

from plcourse.cli.course_cli import CourseCLI
from plcourse.cli.request import read_request
from plcourse.runs import allowlist
from stock_parts import Kept
from stock_settings import KEPT, Setting, part, settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "lessons" / "results.md"
COMMAND = "python scripts/tools/compare_with_stock.py"
_BLOCK = re.compile(r"(<!-- stock settings -->\n)(.*?)(<!-- end of stock settings -->)", re.DOTALL)
_PLAIN: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "max_epochs": 3,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": KEPT,
}
_STOCK_PARSING = dict(_common.parsing_settings)  # before the suite's allowlist
_ELAPSED = "time_elapsed"  # in the state of a Timer


def config_of(setting: Setting) -> dict[str, Any]:
    """Returns the config of a setting."""
    model, data = (
        given if "class_path" in given else part(f"stock_parts.{name}", **given)
        for name, given in (("Net", setting.model), ("Batches", setting.data))
    )
    trainer = {**_PLAIN, **setting.trainer}
    return copy.deepcopy({"seed_everything": 1, "trainer": trainer, "model": model, "data": data})


def run_stock(config: dict[str, Any]) -> LightningCLI:
    """Runs a config with LightningCLI and the stock Trainer, in the current folder."""
    _common.parsing_settings.update(_STOCK_PARSING)
    arguments = {"subcommand": "fit", "fit": config}
    return LightningCLI(args=arguments, save_config_callback=None, auto_configure_optimizers=False)  # pyright: ignore


def run_suite(config: dict[str, Any]) -> CourseCLI:
    """Runs a config as `plcourse fit -c` does, below the current folder."""
    path = Path("suite.yaml")
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    request = read_request("fit", ["-c", str(path), "--trust", "stock_parts", "--runs_root", "runs"])
    allowlist.install(request.trusted)
    return CourseCLI(request)


def outcome(cli: LightningCLI, setting: Setting) -> dict[str, Any]:
    """Returns everything that is compared after a fit."""
    trainer, model = cli.trainer, cli.model
    given = setting.trainer.get("callbacks", [])
    kinds = {each["class_path"].rpartition(".")[2] for each in given}
    callbacks = [each for each in trainer.callbacks if type(each).__name__ in kinds]  # pyright: ignore
    counters = {"epoch": trainer.current_epoch, "stopped": trainer.should_stop}
    if setting.counts:
        counters["step"] = trainer.global_step
    schedules = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    return {
        "losses": list(getattr(model, "losses", [])),
        "weights": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedules": schedules,
        "rows": next((logger.rows for logger in trainer.loggers if isinstance(logger, Kept)), []),
        "metrics": dict(trainer.callback_metrics),
        "counters": counters,
        "callbacks": [_without_paths(callback.state_dict()) for callback in callbacks],
        "checkpoints": [_weights(each) for each in callbacks if isinstance(each, Checkpoint)],
    }


def compare(setting: Setting) -> str:
    """Runs a setting in both ways; returns where the suite's outcome differs, empty for nowhere."""
    with _folder() as folder:
        ours = run_suite(config_of(setting))
        ours_found = outcome(ours, setting)
        config = config_of(setting)
        if setting.tuned:
            assert ours.run_folder is not None
            config["trainer"]["callbacks"] = []
            for key, (_, value) in ours.run_folder.record["tuned"].items():
                part_, _, argument = key.split(".")
                config[part_]["init_args"][argument] = value
        config["trainer"]["default_root_dir"] = str(folder / "stock")
        stock_found = outcome(run_stock(config), setting)
        assert stock_found["weights"], "nothing was compared"
        return difference(stock_found, ours_found)


def difference(stock: Any, ours: Any, where: str = "") -> str:
    """Returns the first place where two nested values differ, empty for none."""
    if isinstance(stock, torch.Tensor) or isinstance(ours, torch.Tensor):
        both = isinstance(stock, torch.Tensor) and isinstance(ours, torch.Tensor)
        return "" if both and stock.dtype == ours.dtype and torch.equal(stock, ours) else where
    if isinstance(stock, dict) and isinstance(ours, dict):
        if stock.keys() != ours.keys():
            return f"{where}: {sorted(map(str, stock.keys() ^ ours.keys()))}"
        return next(filter(None, (difference(stock[key], ours[key], f"{where}.{key}") for key in stock)), "")
    if isinstance(stock, list | tuple) and isinstance(ours, list | tuple):
        if len(stock) != len(ours):
            return f"{where}: {len(stock)} and {len(ours)} entries"
        pairs = enumerate(zip(stock, ours, strict=True))
        return next(filter(None, (difference(a, b, f"{where}.{i}") for i, (a, b) in pairs)), "")
    same = stock == ours or (stock != stock and ours != ours)
    return "" if same else f"{where}: {stock!r} and {ours!r}"


def write_table(rows: Iterable[tuple[Setting, str]]) -> None:
    """Writes rows into the section of the results page, which keeps those of settings that were not tried."""
    page = PAGE.read_text(encoding="utf-8")
    block = _BLOCK.search(page)
    assert block is not None
    lines = {row.rpartition(" | ")[0]: row for row in block[2].splitlines() if row.startswith("| ")}
    for setting, differs in rows:
        lines[_row(setting)] = f"{_row(setting)} | {f'no: {differs}' if differs else 'yes'} |"
    kept = [lines[key] for key in map(_row, settings()) if key in lines]
    equal = sum(line.endswith(" | yes |") for line in kept)
    versions = f"Lightning {pl.__version__}, torch {torch.__version__}, Python {python_version()}"  # pyright: ignore
    today = datetime.datetime.now(datetime.UTC).date()
    head = [
        f"{equal} of {len(kept)} settings are equal to the last bit, by `{COMMAND}` ({today}, {versions}, one thread).",
        "",
        "| kind | setting | equal |",
        "|---|---|---|",
    ]
    text = "\n".join([*head, *kept, ""])
    PAGE.write_text(_BLOCK.sub(lambda block: block[1] + text + block[3], page), encoding="utf-8")


def _row(setting: Setting) -> str:
    """Returns the first two cells of the row of a setting."""
    return f"| {setting.group} | {setting.name}"


def chosen(words: Iterable[str]) -> list[Setting]:
    """Returns the settings whose kind and name contain one of the words; all without words."""
    words = list(words)
    return [each for each in settings() if not words or any(word in f"{each.group} {each.name}" for word in words)]


def _without_paths(state: Any) -> Any:
    """Returns the state of a callback with file names in place of paths, and without the times of a Timer."""
    if isinstance(state, dict):
        return {_without_paths(key): _without_paths(value) for key, value in state.items() if key != _ELAPSED}
    return state.rpartition("/")[2] if isinstance(state, str) else state


def _weights(callback: Checkpoint) -> dict[str, Any]:
    """Returns the weights in the files that a callback has kept, by file name."""
    if not isinstance(callback, ModelCheckpoint):
        return {}
    files = [*callback.best_k_models, callback.best_model_path, callback.last_model_path]
    load = {Path(file).name: torch.load(file, weights_only=True)["state_dict"] for file in files if file}
    return dict(sorted(load.items()))


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Enters an empty folder and hides what the runs print."""
    before = Path.cwd()
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        os.chdir(name)
        logging.disable(logging.WARNING)
        try:
            yield Path(name)
        finally:
            logging.disable(logging.NOTSET)
            os.chdir(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    words = parser.parse_args().words
    torch.set_num_threads(1)
    rows = []
    for setting in chosen(words):
        try:
            differs = compare(setting)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            differs = f"{type(error).__name__}: {error}".splitlines()[0]
        rows.append((setting, differs))
        print(f"{'DIFFERS' if differs else 'equal':8}{setting.group}: {setting.name}  {differs}", flush=True)
    write_table(rows)
    return int(any(differs for _, differs in rows))


if __name__ == "__main__":
    sys.exit(main())
