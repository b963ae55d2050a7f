"""Unknown keys and flags are found before torch is imported, and no known one is refused."""

import inspect
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml

from plcourse import catalog
from plcourse.cli import Resolver
from plcourse.cli.known_keys import TOP_LEVEL, arguments_of, trainer_arguments
from plcourse.cli.request import read_request
from plcourse.errors import UserError
from plcourse.training.trainer import Trainer
from support import digits_config, write_config

# each kind of mistake with a part of its message
MISTAKES = {
    "fit -c syntax.yaml": "syntax.yaml:3: not valid YAML",
    "fit -c nowhere": "'nowhere' is neither a file nor a packaged config",
    "fitt -c ddp/mlp": "did you mean 'fit'?",
    "fit -c top.yaml": "top.yaml:1: trianer: unknown setting 'trianer'; did you mean 'trainer'?",
    "fit -c trainer.yaml": "trainer.yaml:2: trainer.max_epoch: unknown setting 'max_epoch'; did you mean 'max_epochs'?",
    "fit -c list.yaml": "list.yaml:4: trainer.callbacks.0.init_args.moniter: unknown setting 'moniter'",
    "fit -c ddp/mlp -c network.yaml": "network.yaml:7: model.init_args.network.init_args.hiden: unknown setting",
    "test -c trainer.yaml --allow_untrained": "did you mean 'max_epochs'?",
    "fit -c ddp/mlp --trainer.max_epoch 3": "unknown flag --trainer.max_epoch; did you mean '--trainer.max_epochs'?",
    "fit -c ddp/mlp --runs_rot x": "unknown flag --runs_rot; did you mean '--runs_root'?",
    "fit -c ddp/mlp --data.init_args.batch_sise=3": "unknown setting 'batch_sise'; did you mean 'batch_size'?",
    "fit -c ddp/mlp --model.networks=MLP": "unknown setting 'networks'; did you mean 'network'?",
    "predict --run nowhere": "nowhere",
    "export --run nowhere": "nowhere",
    "benchmark latency --run nowhere": "nowhere",
    "benchmark scaling -c trainer.yaml": "did you mean 'max_epochs'?",
    "doctor -c trainer.yaml": "did you mean 'max_epochs'?",
    "sweep --arms trainer.yaml": "did you mean 'max_epochs'?",
    "sweep --arms ddp/mlp --grid trainer.max_epoch=1,2": "arm 'ddp/mlp': unknown flag --trainer.max_epoch",
}
FILES = {
    "syntax.yaml": "trainer:\n  max_epochs: [1\n",
    "top.yaml": "trianer:\n  max_epochs: 1\n",
    "trainer.yaml": "trainer:\n  max_epoch: 1\n",
    "list.yaml": "trainer:\n  callbacks:\n    - class_path: RunCheckpoint\n      init_args: {moniter: val/loss}\n",
    "network.yaml": "model:\n  class_path: ImageClassifier\n  init_args:\n    network:\n      class_path: MLP\n"
    "      init_args:\n        hiden: [8]\n",
}
TRY = """
import io, sys
from contextlib import redirect_stderr
from plcourse.__main__ import main
for line in sys.stdin.read().splitlines():
    with redirect_stderr(io.StringIO()) as printed:
        try:
            main(line.split())
        except SystemExit as error:
            status = error.code
    print(status, "torch" in sys.modules, printed.getvalue(), end="")
"""


@pytest.mark.medium
def test_no_mistake_waits_for_torch(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", TRY], input="\n".join(MISTAKES), capture_output=True, text=True, cwd=tmp_path, check=True
    )
    for (command, expected), line in zip(MISTAKES.items(), done.stdout.splitlines(), strict=True):
        assert line.startswith("2 False plcourse: error: "), (command, line)
        assert expected in line, command


def test_the_arguments_of_every_class_are_known() -> None:
    left_to_the_parser = set()
    for name, path in catalog.CLASSES.items():
        if (known := arguments_of(path)) is None:
            left_to_the_parser.add(name)
        else:
            assert known == set(inspect.signature(resolve_name(path).__init__).parameters) - {"self"}, path
    # three have no constructor, and two that of a class of Lightning
    assert left_to_the_parser == {"Confusion", "PerClass", "RiskCoverage", "KFoldValidationLoop", "MaskWriter"}
    lightning, suite = (set(inspect.signature(each.__init__).parameters) for each in (pl.Trainer, Trainer))
    assert trainer_arguments() == (lightning | suite) - {"self", "kwargs"}


def test_the_arguments_of_other_classes_are_not_guessed() -> None:
    assert arguments_of("torch.optim.SGD") is None
    assert arguments_of("plcourse.data.nowhere.Data") is None
    assert arguments_of("mine.Net") is None


def test_the_keys_at_the_top_are_those_of_the_parser() -> None:
    config = Resolver.of(read_request("fit", ["-c", "ddp/mlp"])).settings
    own = {"optimizer", "lr_scheduler"}  # the model's arguments under short names
    assert {*vars(config), *own} == {*TOP_LEVEL, "config"}


@pytest.mark.parametrize(
    "flags",
    [
        ["--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.monitor=val/loss"],
        ["--trainer.fit_loop.init_args.n_splits", "3"],
        ["--model.help"],
        ["--model", "mine.Net", "--model.init_args.width", "3"],
        ["--model=mine.Net", "--model.width", "-3"],
        ["--model.class_path=mine.Net", "--model.init_args.width=3"],
        ["--optimizer", "Adam", "--optimizer.lr", "0.1", "--lr_scheduler=null"],
        ["--data.batch_size", "8", "--data.init_args.augment+=RandomFlip"],
        ["--print_config", "--seed_everything", "3", "--ckpt_path", "x"],
        ["--help"],
    ],
    ids=" ".join,
)
def test_what_the_parser_may_know_is_left_to_it(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").touch()
    assert read_request("fit", ["-c", "ddp/mlp", *flags]).arguments


def test_short_forms_and_foreign_classes_in_a_config_are_left_to_the_parser(tmp_path: Path) -> None:
    config: dict[str, Any] = digits_config()
    config["trainer"]["callbacks+"] = [{"class_path": "mine.Callback", "init_args": {"any": 1}}]
    config["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"nesterof": True}}
    config["trainer.max_epochs"] = 3
    file = write_config(tmp_path / "own.yaml", config)
    assert yaml.safe_load(read_request("fit", ["-c", str(file), "--trust=mine"]).arguments[0].partition("=")[2])


def test_a_key_from_a_merge_is_named_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("trainer: {<<: {max_epoch: 1}}\n")
    with pytest.raises(UserError, match=r"own\.yaml(:1)?: trainer\.max_epoch: unknown setting"):
        read_request("fit", ["-c", str(file)])
