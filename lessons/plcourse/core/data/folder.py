"""A user's own image files: one folder per class, or a list of files to predict.

Decoding is left to `read`; opening a folder only reads the bytes (for the content hash) and the header of
each file.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from plcourse.core.data.resize import ImageSize, Resize, as_pixels, resized, size_of
from plcourse.core.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
LARGEST_KEPT = 256  # pixels a side up to which a common size is kept; one batch of larger ones fills the memory
MIXED_SIZE = 64  # pixels a side otherwise: what a photograph still shows and two CPU cores still train
CACHE_BYTES = 256 << 20  # decoded images of a small folder are kept, so that only the first epoch decodes

_GREY_MODES = ("1", "L", "LA", "I;16", "I;16L", "I;16B")
_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LAYOUT = "give a folder with one sub-folder of images per class, or with train/, val/ and test/ of such"
_ORIENTATION = 0x0112  # the EXIF tag; values 5 to 8 swap width and height
# what Pillow and its codecs raise for a file that is not the image it claims to be
DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,  # a tag of a TIFF file that holds another type than Pillow counts on
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_EXIF_FORMATS = ("JPEG", "MPO", "TIFF", "WEBP")  # Pillow decodes a whole PNG to look for EXIF data behind it


@dataclass(frozen=True)
class _Facts:
    """What the header and the bytes of a file say."""

    content: bytes  # 8 bytes of BLAKE2b over the file
    grey: bool
    size: tuple[int, int]  # height, width as shown
    error: str | None = None


class FolderSource:
    """Image files, decoded when read. See `Source` for the attributes.

    Args:
        name: the source's name.
        paths: N files.
        ids: N distinct names.
        labels: int64 [N]; -1 for a file without a label.
        label_names: one name per class.
        shape: (channels, height, width) to decode to; None takes it from the files: grey if all are, the size
            that all share if that is at most 256 pixels a side, else 64 x 64.
        image_size: height and width, or one number for both, instead of those of `shape`.
        on_error: ``raise`` names the first unreadable file, at once where its header shows it and else when
            it is read; ``skip`` decodes every file now and leaves the unreadable ones out.
        part_of: N part names where the folder has its own split.
        channels: 1 or 3 to decode to, whatever the files are; None leaves it to `shape`.
        resize: how an image of another size is brought to the shape; see `plcourse.core.data.resize`.

    Attributes:
        sizes: int64 [N, 2], height and width of each file, upright.

    Raises:
        UserError: an unreadable file, or no readable file at all.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        ids: Sequence[str],
        labels: Sequence[int],
        label_names: list[str],
        shape: tuple[int, int, int] | None = None,
        image_size: ImageSize | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        part_of: Sequence[str] | None = None,
        channels: int | None = None,
        resize: Resize = "crop",
    ) -> None:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing and decoding release the lock
            facts = list(pool.map(_inspect, paths, [on_error == "skip"] * len(paths)))
        bad = [i for i, each in enumerate(facts) if each.error]
        if bad and on_error == "raise":
            raise _unreadable(paths[bad[0]], str(facts[bad[0]].error))
        good = [i for i, each in enumerate(facts) if not each.error]
        if not good:
            raise UserError(
                f"none of {len(paths)} image files can be read; the first is '{paths[0]}': {facts[0].error}"
            )
        self.name = name
        self.resize: Resize = resize
        self.sizes = np.array([facts[i].size for i in good], np.int64)
        self.paths = [paths[i] for i in good]
        self.ids = [ids[i] for i in good]
        self.labels = np.array([labels[i] for i in good], np.int64)
        self.label_names = label_names
        self.rejected = [(str(paths[i]), str(facts[i].error)) for i in bad]
        self.hashes = np.frombuffer(b"".join(facts[i].content for i in good), "<u8").astype(np.uint64)
        self.parts = None if part_of is None else _indices_of([part_of[i] for i in good])
        self.shape = shape or _common_shape([facts[i] for i in good])
        if image_size is not None:
            self.shape = (self.shape[0], *size_of(image_size))
        if channels is not None:
            self.shape = (channels, *self.shape[1:])
        fits = len(good) * int(np.prod(self.shape)) <= CACHE_BYTES
        self._cache = torch.empty((len(good), *self.shape), dtype=torch.uint8) if fits else None
        self._cached = np.zeros(len(good), bool)

    @classmethod
    def of_classes(
        cls,
        root: str,
        image_size: ImageSize | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        resize: Resize = "crop",
    ) -> Self:
        """Opens a folder with one sub-folder per class, or with ``train/`` and ``val/``, ``test/`` of such.

        Sub-folders of a class folder belong to it; hidden files and files that are not images are passed
        over. The id of a sample is its path below `root`.

        Raises:
            UserError: `root` does not look like that.
        """
        top = Path(root)
        if not top.is_dir():
            raise UserError(f"image_folder: '{root}' is {'a file' if top.is_file() else 'not there'}; {_LAYOUT}")
        folders = _folders(top)
        by_part = _is_by_part(folders)
        classes: list[tuple[str, Path]] = [
            (_PARTS[part.name] if by_part else "", folder) for part in (folders if by_part else [top])
            for folder in _folders(part)
        ]  # fmt: skip
        label_names = sorted({folder.name for part, folder in classes if part in ("", "train")})
        paths, labels, part_of = [], [], []
        for part, folder in classes:
            if folder.name not in label_names:
                raise UserError(f"image_folder: '{folder}' holds a class that train/ has not: {', '.join(label_names)}")
            found = images_below(folder)
            if not found:
                raise UserError(
                    f"image_folder: no image in '{folder}' ({', '.join(EXTENSIONS)}); add some or remove it"
                )
            paths += found
            labels += [label_names.index(folder.name)] * len(found)
            part_of += [part] * len(found)
        if not paths:
            raise UserError(f"image_folder: no class folder in '{root}'; {_LAYOUT}")
        ids = [path.relative_to(top).as_posix() for path in paths]
        return cls(
            "image_folder",
            paths,
            ids,
            labels,
            label_names,
            None,
            image_size,
            on_error,
            part_of if by_part else None,
            resize=resize,
        )

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """The images at `indices` (int64 [B]) as uint8 [B, C, H, W].

        Raises:
            UserError: a file that cannot be decoded, by name.
        """
        if self._cache is None:
            return torch.stack([self._decoded(i) for i in indices.tolist()])
        for i in indices[~self._cached[indices]].tolist():
            self._cache[i] = self._decoded(i)
            self._cached[i] = True
        return self._cache.index_select(0, torch.from_numpy(indices))

    def read_raw(self, index: int) -> torch.Tensor:
        """One image as it is before it is resized: uint8 [C, H, W] in its own size, upright."""
        return self._decoded(index, whole=True)

    def _decoded(self, index: int, whole: bool = False) -> torch.Tensor:
        try:
            return read_image(self.paths[index], self.shape, None if whole else self.resize)
        except UnreadableImage as error:
            raise _unreadable(self.paths[index], str(error)) from error


def open_files(
    paths: Sequence[str],
    shape: tuple[int, int, int] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    resize: Resize = "crop",
) -> FolderSource:
    """Opens files without labels, for prediction. The id of a file is its path as given.

    Args:
        paths: image files, and folders of which every image is taken, sub-folders included.
        shape: (channels, height, width) that the model was trained on.
        on_error: see `FolderSource`.
        resize: the rule that the model was trained with.

    Raises:
        UserError: a path that is not there, or no image at all.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += images_below(path)
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"predict_paths: '{path}' is not there; give image files or folders of them")
    found = list(dict.fromkeys(found))
    if not found:
        raise UserError(f"predict_paths: no image in {', '.join(paths) or 'an empty list'} ({', '.join(EXTENSIONS)})")
    ids = [path.as_posix() for path in found]
    return FolderSource("files", found, ids, [-1] * len(found), [], shape, None, on_error, resize=resize)


class UnreadableImage(Exception):
    """A file that is not the image it claims to be; the text is the reason."""


def read_image(path: Path, shape: tuple[int, int, int], resize: Resize | None = "crop") -> torch.Tensor:
    """One file as uint8 [C, H, W], upright and brought to `shape` (channels, height, width); see `FolderSource`.

    Without a rule it keeps its own height and width.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            check_size(image)
            return _pixels(image, shape, resize)
    except DECODE_ERRORS as error:
        raise UnreadableImage(reason_of(error)) from error


def check_size(image: Image.Image) -> None:
    """Refuses what Pillow only warns of: a header that asks for up to a gigabyte, whatever the file holds.

    Raises:
        Image.DecompressionBombError: more pixels than ``Image.MAX_IMAGE_PIXELS``.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(f"{image.height} x {image.width} pixels are more than {limit:,}")


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _is_by_part(folders: list[Path]) -> bool:
    """Whether these are parts rather than classes: a class may be called "train", but then it holds files."""
    names = {folder.name for folder in folders}
    return "train" in names and names <= set(_PARTS) and any(_folders(f) for f in folders if f.name == "train")


def images_below(folder: Path) -> list[Path]:
    """Every image file in a folder and its sub-folders, sorted; hidden ones are passed over.

    A link that leads nowhere counts, so that reading it names it.
    """
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in EXTENSIONS
        and (p.is_file() or (p.is_symlink() and not p.exists()))
        and not any(piece.startswith(".") for piece in p.relative_to(folder).parts)
    )


def _inspect(path: Path, decode: bool) -> _Facts:
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content)) as image:
            check_size(image)
            height, width = image.height, image.width
            if image.format in _EXIF_FORMATS and image.getexif().get(_ORIENTATION, 1) >= 5:
                height, width = width, height
            grey = image.mode in _GREY_MODES
            if decode:
                _pixels(image, (1, height, width), None)
            else:
                image.verify()
    except DECODE_ERRORS as error:
        return _Facts(b"", False, (0, 0), reason_of(error))
    return _Facts(hashlib.blake2b(content, digest_size=8).digest(), grey, (height, width))


def _common_shape(facts: list[_Facts]) -> tuple[int, int, int]:
    channels = 1 if all(each.grey for each in facts) else 3
    sizes = {each.size for each in facts}
    height, width = sizes.pop()
    if sizes or max(height, width) > LARGEST_KEPT:
        return channels, MIXED_SIZE, MIXED_SIZE
    return channels, height, width


def _pixels(image: Image.Image, shape: tuple[int, int, int], resize: Resize | None) -> torch.Tensor:
    """Upright, and brought to `shape` by the rule where there is one: uint8 [C, H, W]."""
    channels, height, width = shape
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16 bits at 255 instead of scaling them
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no fixed range; convert the file to 8 or 16 bits")
    elif image.mode == "P":
        image = image.convert("RGBA")  # a palette's transparency may be bytes, which only RGBA can hold
    # without copies that change nothing: each is as large as the picture, which may have 89 million pixels
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode != (mode := "L" if channels == 1 else "RGB"):
        image = image.convert(mode)
    return as_pixels(image if resize is None else resized(image, (height, width), resize))


def _indices_of(part_of: list[str]) -> dict[str, np.ndarray]:
    names = np.array(part_of)
    return {part: np.flatnonzero(names == part) for part in ("train", "val", "test") if part in part_of}


def reason_of(error: BaseException) -> str:
    """Why a file could not be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        f"cannot read the image '{path}': {reason}; mend or remove it, or leave such files out with "
        "--data.init_args.on_error=skip"
    )
