"""A hostile config is refused before anything of it runs."""

import contextlib
import copy
import enum
import importlib.util
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any, cast

import jsonargparse
import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.callbacks.finetuning import multiplicative

import plcourse
from plcourse import catalog
from plcourse.__main__ import main
from plcourse.errors import is_inside
from plcourse.runs import allowlist
from support import digits_config, write_config

CALLBACK = ("trainer", "callbacks")
NETWORK = ("model", "init_args", "network")
OPTIMIZER = ("model", "init_args", "optimizer")
STRATEGY = ("trainer", "strategy")
LOGGER = ("trainer", "logger")


def spec(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


HOSTILE = {
    "a function of os": (NETWORK, spec("os.system", command="touch pwned")),
    "a shell by subprocess": (NETWORK, spec("subprocess.Popen", args=["touch", "pwned"])),
    "eval": (NETWORK, spec("builtins.eval", source="open('pwned','w')")),
    "torch.hub": (NETWORK, spec("torch.hub.load", repo_or_dir="evil", model="net", source="local")),
    "torch.load": (NETWORK, spec("torch.load", f="evil.pt", weights_only=False)),
    "torch.load by its own module": (NETWORK, spec("torch.serialization.load", f="evil.pt")),
    "a compiler": (NETWORK, spec("torch.utils.cpp_extension.load", name="evil", sources=["evil.cpp"])),
    "a scripted module": (NETWORK, spec("torch.jit.load", f="evil.pt")),
    "a package importer": (NETWORK, spec("torch.package.PackageImporter", file_or_buffer="evil.pt")),
    "a process": (NETWORK, spec("torch.multiprocessing.Process", target="os.system", args=["touch pwned"])),
    "another module through torch": (NETWORK, spec("torch.nn.modules.module.functools.partial", func="os.system")),
    "a module of the user": (NETWORK, spec("evil_module.Net")),
    "a function as optimizer": (OPTIMIZER, "os.system"),
    "torch.hub as optimizer": (OPTIMIZER, "torch.hub.load"),
    "a callable in a callback": (CALLBACK, [spec("LambdaCallback", on_fit_start="os.getcwd")]),
    "a function as hook": (STRATEGY, spec("DDPStrategy", ddp_comm_hook="os.system")),
    "torch.load as hook": (STRATEGY, spec("DDPStrategy", ddp_comm_hook="torch.load")),
    "hidden in an untyped value": (
        STRATEGY,
        spec("DDPStrategy", ddp_comm_state=spec("os.system", command="touch pwned")),
    ),
    "a callable in a callback, by path": (
        CALLBACK,
        [spec("pytorch_lightning.callbacks.lambda_function.LambdaCallback")],
    ),
    "a method of a class": (NETWORK, spec("torch.nn.Embedding.from_pretrained", embeddings=[[1.0]])),
    "a hook of every module": (NETWORK, spec("torch.nn.modules.module.register_module_forward_hook", hook="os.system")),
    "a function of torch.nn": (NETWORK, spec("torch.nn.functional.one_hot", tensor=[1])),
    "a function of torch.nn as hook": (STRATEGY, spec("DDPStrategy", ddp_comm_hook="torch.nn.functional.relu")),
    "a function of torchvision.models": (NETWORK, spec("torchvision.models.get_model", name="resnet18")),
    "a module of torch.nn": (NETWORK, "torch.nn.functional"),
    "a class of the suite that no config names": (NETWORK, spec("plcourse.vision.networks.Decoder", widths=[8, 8])),
    "a class of the suite that is not there": (NETWORK, spec("plcourse.anything.Net")),
    "a metric that downloads a network": (
        NETWORK,
        spec("torchmetrics.image.LearnedPerceptualImagePatchSimilarity", net_type="alex"),
    ),
    "a metric that unpickles a network": (
        NETWORK,
        spec("torchmetrics.image.fid.FrechetInceptionDistance", feature_extractor_weights_path="evil.pth"),
    ),
    "a data module that downloads and unpickles": (
        ("data",),
        spec("pytorch_lightning.demos.mnist_datamodule.MNISTDataModule", data_dir="evil"),
    ),
    "a data set that downloads": (NETWORK, spec("torchvision.datasets.MNIST", root=".", download=True)),
    "a strategy with a separate config": (STRATEGY, spec("DeepSpeedStrategy", config="evil.json")),
    "a writer of TensorBoard": (NETWORK, spec("torch.utils.tensorboard.SummaryWriter", log_dir="evil")),
    "the suite's table": (LOGGER, spec("plcourse.runs.recorder.TidyLogger")),
    "the suite's table by its old path": (LOGGER, spec("plcourse.core.record.TidyLogger")),
    "the suite's writer": (CALLBACK, [spec("plcourse.runs.prediction_writer.PredictionWriter", folder="evil")]),
    "the suite's own launcher": (NETWORK, spec("plcourse.processes.supervisor.supervise", n=1)),
    "the suite's own entry": (NETWORK, spec("plcourse.cli.api.run", verb="fit", config="x")),
}


def hostile_config(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    config = copy.deepcopy(digits_config(trainer__max_epochs=0))
    *parents, last = place
    target: Any = config
    for parent in parents:
        target = target[parent]
    target[last] = value
    return config


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Path) -> Path:
    """A folder with a module that leaves a mark when it is imported, as current and as importable folder."""
    (tmp_path / "evil_module.py").write_text(
        "import pathlib, torch\npathlib.Path('pwned').touch()\nclass Net(torch.nn.Identity): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    return tmp_path


@pytest.mark.medium
@pytest.mark.parametrize("name", HOSTILE)
def test_refused_before_anything_runs(evil: Path, runs: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = write_config(evil / "hostile.yaml", hostile_config(*HOSTILE[name]))
    before = set(sys.modules)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", str(path)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is refused" in error
    assert not (evil / "pwned").exists()
    assert not runs.exists(), "refused before a run began"
    imported = set(sys.modules) - before
    assert not imported & {"evil_module", "torch.utils.cpp_extension", "torch.package"}


@pytest.mark.medium
def test_every_admitted_callable_is_a_class_or_builds_a_model_of_torchvision() -> None:
    """All public names of the admitted packages, looked up as jsonargparse looks up a name of a config."""
    allowlist.install([])
    for package in allowlist.FOREIGN:
        importlib.import_module(package)
    homes = [name for name in sys.modules if is_inside(name, allowlist.FOREIGN)]
    admitted: dict[str, Any] = {}
    asked = 0
    for home in sorted(homes):
        for name in dir(sys.modules[home]):
            paths = [f"{home}.{name}"]
            if inspect.isclass(holder := getattr(sys.modules[home], name, None)) and not issubclass(holder, enum.Enum):
                paths += [f"{home}.{name}.{inner}" for inner in vars(holder)]
            for path in paths:
                asked += 1
                with contextlib.suppress(ImportError, AttributeError, ValueError):
                    admitted[path] = jsonargparse._util.import_object(path)
    functions = {path: found for path, found in admitted.items() if not inspect.isclass(found)}
    defaults = {path for path in functions if not path.startswith("torchvision.")}
    assert {functions.pop(path) for path in defaults} == {multiplicative}
    constructors = allowlist.constructors()
    assert all(found in constructors for found in functions.values())
    assert {found.__name__ for found in functions.values()} == {each.__name__ for each in constructors}
    assert len(constructors) > 80
    classes = {found for found in admitted.values() if inspect.isclass(found)}
    assert all(is_inside(f"{found.__module__}.{found.__qualname__}", allowlist.FOREIGN) for found in classes)
    assert {torch.nn.Linear, torch.optim.SGD, EarlyStopping} <= classes
    assert not any("LambdaCallback" in found.__name__ for found in classes)
    assert len(classes) > 500
    assert asked > 10 * len(classes), "most names are refused"


def test_of_the_suite_only_the_catalog_is_admitted() -> None:
    allowlist.install([])
    modules = [each.name for each in pkgutil.walk_packages(plcourse.__path__, "plcourse.")]
    asked = 0
    for module in (name for name in modules if not name.endswith("__main__")):
        source = Path(importlib.util.find_spec(module).origin)  # pyright: ignore
        for name in re.findall(r"^(?:class|def) (\w+)", source.read_text(), re.MULTILINE):
            asked += 1
            assert allowlist.admits(f"{module}.{name}") == (f"{module}.{name}" in catalog.CLASSES.values())
    assert asked > 500
    for path in catalog.CLASSES.values():
        assert inspect.isclass(jsonargparse._util.import_object(path))


WEIGHTS = {
    "resnet18": {"weights": "DEFAULT"},
    "segmentation.fcn_resnet50": {"weights_backbone": "DEFAULT"},
    "detection.fasterrcnn_resnet50_fpn": {},  # its default
}


@pytest.mark.medium
@pytest.mark.parametrize("name", WEIGHTS)
def test_trained_weights_are_downloaded_only_where_the_command_allows_it(
    evil: Path, runs: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = write_config(evil / "w.yaml", hostile_config(NETWORK, spec(f"torchvision.models.{name}", **WEIGHTS[name])))
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(path)])
    error = capsys.readouterr().err
    assert "downloads trained weights" in error
    assert "--trust torchvision.models" in error
    assert error.count("\n") == 1
    assert not runs.exists()
    config, model = jsonargparse.Namespace(class_path=f"torchvision.models.{name}", init_args={}), "torchvision.models"
    allowlist.check_downloads(config, [])
    config.init_args = {"weights": None, "weights_backbone": None}
    allowlist.check_downloads(config, [])
    config.init_args = {"weights": "DEFAULT"}
    allowlist.check_downloads(config, [model])


@pytest.mark.medium
def test_a_function_is_let_in_by_trust(evil: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strategy = spec("DDPStrategy", ddp_comm_hook="torch.nn.functional.relu")
    path = write_config(evil / "f.yaml", hostile_config(STRATEGY, strategy))
    main(["fit", "-c", str(path), "--trust", "torch.nn.functional", "--print_config"])
    assert "ddp_comm_hook: torch.nn.functional.relu" in capsys.readouterr().out


@pytest.mark.medium
def test_the_same_class_by_flag_is_refused(evil: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(evil / "fine.yaml", digits_config())
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(path), "--model.init_args.network", "evil_module.Net"])
    assert "is refused" in capsys.readouterr().err
    assert not (evil / "pwned").exists()


@pytest.mark.medium
def test_a_trusted_module_is_let_in_and_only_then_imported(
    evil: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(evil / "own.yaml", hostile_config(NETWORK, spec("evil_module.Net")))
    main(["fit", "-c", str(path), "--trust", "evil_module", "--print_config"])
    assert "evil_module.Net" in capsys.readouterr().out
    assert (evil / "pwned").exists()


@pytest.mark.medium
def test_the_environment_can_trust(evil: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLCOURSE_TRUST", "evil_module, other")
    path = write_config(evil / "own.yaml", hostile_config(NETWORK, spec("evil_module.Net")))
    main(["fit", "-c", str(path), "--print_config"])
    assert (evil / "pwned").exists()


@pytest.mark.medium
def test_trust_ends_with_the_command(evil: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(evil / "own.yaml", hostile_config(NETWORK, spec("evil_module.Net")))
    main(["fit", "-c", str(path), "--trust", "evil_module", "--print_config"])
    fine = write_config(evil / "fine.yaml", digits_config())
    for arguments in (["-c", str(path)], ["-c", str(fine), "--model.init_args.network", "evil_module.Net"]):
        with pytest.raises(SystemExit):
            main(["fit", *arguments, "--print_config"])
        assert "is refused" in capsys.readouterr().err


def test_no_registered_class_takes_an_unchecked_callable() -> None:
    import typing
    from collections.abc import Callable

    looked_at = 0
    for path in catalog.CLASSES.values():
        module, _, name = path.rpartition(".")
        cls = getattr(__import__(module, fromlist=[name]), name)
        for parameter in inspect.signature(cls).parameters.values():
            looked_at += 1
            assert parameter.kind is not parameter.VAR_KEYWORD, f"{path} takes **{parameter.name}"
            pending = [parameter.annotation]
            while pending:
                annotation = pending.pop()
                assert annotation not in (Callable, typing.Callable), f"{path}.{parameter.name} is a bare Callable"
                if typing.get_origin(annotation) is Callable:
                    assert isinstance(typing.get_args(annotation)[1], type | cast(Any, typing)._UnionGenericAlias), (
                        parameter
                    )
                pending += [a for a in typing.get_args(annotation) if not isinstance(a, list)]
    assert looked_at > 30


@pytest.mark.parametrize("module", ["../evil", "evil module", "jsonargparse", "jsonargparse.typing", ""])
def test_trust_takes_module_names(module: str) -> None:
    with pytest.raises(Exception, match="--trust takes a module"):
        allowlist.install([module])


@pytest.mark.medium
def test_a_hostile_checkpoint_is_refused(evil: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return open, ("pwned", "w")

    torch.save({"state_dict": {}, "bomb": Bomb()}, evil / "bomb.ckpt")
    path = write_config(evil / "fine.yaml", digits_config())
    with pytest.raises(SystemExit):
        main(["test", "-c", str(path), "--ckpt_path", "bomb.ckpt"])
    assert "nothing of it was executed" in capsys.readouterr().err
    assert not (evil / "pwned").exists()
