"""`import lightning` in a user's module gives the classes that the suite runs."""

import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import lightning_fabric
import pytest
import pytorch_lightning
from pytorch_lightning.callbacks import EarlyStopping

from plcourse.runs import allowlist, lightning_imports


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process in which nobody has imported lightning."""
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, lightning_imports._Finder)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightning"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightning"]:
        del sys.modules[name]


def lines(*statements: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec("\n".join(statements), names)
    return names


@pytest.mark.usefixtures("fresh")
class TestImports:
    def test_the_names_of_the_package(self) -> None:
        allowlist.install(["my_models"])
        found = lines(
            "import lightning as L",
            "import lightning.pytorch as pl",
            "from lightning.pytorch.callbacks import EarlyStopping",
            "from lightning.pytorch.utilities.types import OptimizerLRScheduler",
            "from lightning.fabric.utilities.seed import seed_everything",
            "from lightning import *",
        )
        L = found["L"]
        assert found["pl"] is L.pytorch is pytorch_lightning
        assert L.fabric is lightning_fabric
        assert L.Fabric is found["Fabric"] is lightning_fabric.Fabric
        for name in ("LightningModule", "LightningDataModule", "Trainer", "Callback", "seed_everything", "__version__"):
            assert getattr(L, name) is getattr(pytorch_lightning, name)
        assert found["EarlyStopping"] is EarlyStopping
        assert L.pytorch.callbacks.EarlyStopping is found["EarlyStopping"]
        assert found["seed_everything"] is lightning_fabric.seed_everything

    def test_the_installed_modules_stay_as_they_are(self) -> None:
        before = {name: module.__spec__ for name, module in list(sys.modules.items()) if "lightning" in name}
        assert len(before) > 100
        allowlist.install(["my_models"])
        lines("import lightning.pytorch.callbacks.early_stopping", "import lightning.fabric.strategies")
        assert {name: sys.modules[name].__spec__ for name in before} == before
        spec = sys.modules["lightning.pytorch.callbacks.early_stopping"].__spec__
        assert spec is not None
        assert spec.name == "pytorch_lightning.callbacks.early_stopping"

    @pytest.mark.parametrize("name", ["lightning.app", "lightning.pytorch.nothing", "lightning.pytorch.cli.nothing"])
    def test_what_is_not_installed_is_missing(self, name: str) -> None:
        allowlist.install(["my_models"])
        with pytest.raises(ModuleNotFoundError, match=name):
            importlib.import_module(name)

    def test_nothing_changes_without_trust(self) -> None:
        allowlist.install([])
        assert not any(isinstance(finder, lightning_imports._Finder) for finder in sys.meta_path)

    def test_one_line_where_it_is_too_late(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = types.ModuleType("lightning")
        monkeypatch.setitem(sys.modules, "lightning", other)
        allowlist.install(["my_models"])
        (line,) = capsys.readouterr().out.splitlines()
        assert "lightning is imported already" in line
        assert "import pytorch_lightning instead" in line
        assert lines("import lightning")["lightning"] is other
