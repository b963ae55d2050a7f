"""A data set that is missing is downloaded only if the command allows it."""

from pathlib import Path
from typing import Any

import pytest
import torchvision

from plcourse.data.downloads import DOWNLOADED, downloads
from plcourse.data.masks import prepare_masks
from plcourse.data.sources import prepare
from plcourse.errors import UserError

CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "oxford_pets": "OxfordIIITPet"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data sets that torchvision was asked to download; there is no network in a test."""
    found: list[str] = []

    def stand_in(name: str) -> Any:
        def build(root: str, *arguments: object, download: bool = False, **options: object) -> None:
            if download:
                found.append(name)
            raise RuntimeError("Dataset not found")

        return build

    for name, class_ in CLASSES.items():
        monkeypatch.setattr(torchvision.datasets, class_, stand_in(name))
    return found


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_download_needs_permission(asked: list[str], tmp_path: Path, name: str) -> None:
    fetch = prepare_masks if name == "oxford_pets" else prepare
    with downloads(False), pytest.raises(UserError, match=r"not under .*, or download them with --allow_downloads"):
        fetch(name, str(tmp_path))
    assert asked == []
    with downloads(True), pytest.raises(UserError, match="the download failed: Dataset not found"):
        fetch(name, str(tmp_path))
    assert asked == [name]


def test_python_code_outside_of_commands_may_download(asked: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the download failed"):
        prepare("mnist", str(tmp_path))
    assert asked == ["mnist"]
