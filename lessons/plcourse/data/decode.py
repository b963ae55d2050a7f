"""Decodes image files to upright 8-bit pixels, by the same rules for training images, masks and new files.

* Orientation: a picture is turned by its EXIF orientation in every format, as a viewer shows it.
* Transparency: transparent pixels become white.
* Frames and pages: the first one is read.
* Depth: 16-bit values are divided by a power of two, so that the range of the data fills 8 bits; see `depth_of`.

Shape suffixes: C channels, H height, W width.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

# raised by Pillow and its codecs for a file that is not the image it claims to be
DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,  # from a tag of a TIFF file with an unexpected type
    RuntimeError,  # from the decoder of AVIF and for unsupported variants of a format
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

_GRAY_MODES = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_ONE_PICTURE = ("MPO", "PSD")  # formats whose other frames are previews or layers of the same picture
_DEPTHS = (8, 10, 12, 14, 16)  # bits of the values from cameras, scanners and microscopes
_SURE = 1 << 14  # a file with a value of this size or more uses all 16 bits
ORIENTATION = 0x0112  # the EXIF tag
_PNG_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # text chunks of a PNG that can hold an orientation
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Exception):
    """Raised for a file that is not the image it claims to be; the message is the reason."""


@dataclass(frozen=True)
class Facts:
    """The facts that the header and the bytes of an image file contain."""

    content: bytes = b""  # 8 bytes of BLAKE2b over the file
    gray: bool = False  # whether it has no colors
    size: tuple[int, int] = (0, 0)  # height and width as shown
    orientation: int = 1  # its EXIF orientation, 1 to 8
    transparent: bool = False  # whether it has an alpha channel or a transparent color
    frames: bool = False  # whether it has more than one frame or page
    peak: int = 0  # the largest value of a 16-bit file; 0 for an 8-bit file
    error: str | None = None  # why it cannot be read


def inspect(path: Path, decode: bool = False) -> Facts:
    """Reads the bytes and the header of a file; decodes its pixels only if `decode` is set or for the depth."""
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content)) as image:
            check_size(image)
            if reason := _no_range(image):
                raise ValueError(reason)
            transparent, frames = _is_transparent(image), has_frames(image)
            orientation = _orientation_in(content, image)
            width, height = image.size
            if orientation >= 5 and image.format != "TIFF":  # for a TIFF Pillow already gives the size as shown
                height, width = width, height
            gray, peak = image.mode in _GRAY_MODES, 0
            if _is_deep(image):
                peak = int(_deep_values(image)[0].max())
            elif decode:
                image.load()
            else:
                image.verify()
    except DECODE_ERRORS as error:
        return Facts(error=reason_of(error))
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return Facts(digest, gray, (height, width), orientation, transparent, frames, peak)


def glance(path: Path) -> Facts:
    """Reads only the header of a file: whether it is transparent and has several frames."""
    try:
        with Image.open(path) as image:
            return Facts(transparent=_is_transparent(image), frames=has_frames(image))
    except DECODE_ERRORS as error:
        return Facts(error=reason_of(error))


def upright(image: Image.Image, channels: int, depth: int = 0) -> Image.Image:
    """The upright picture in a file that was opened but not yet loaded, in mode L (1 channel) or RGB (3).

    The values of a 16-bit file are taken to have `depth` bits; 0 says that the model only knows 8-bit files. Values
    that have no fixed range, or do not fit, are a ValueError.
    """
    if reason := _no_range(image):
        raise ValueError(reason)
    if _is_deep(image):
        values, alpha_HW = _deep_values(image)
        if reason := misfit(int(values.max()), depth):
            raise ValueError(reason)
        pixels = (values >> ((depth or 16) - 8)).astype(np.uint8)
        if alpha_HW is not None:
            pixels = np.dstack([pixels, (alpha_HW >> 8).astype(np.uint8)])
        orientation, image = orientation_of(image), Image.fromarray(pixels)
    else:
        image.load()
        orientation = orientation_of(image)  # 1 for a TIFF, which is turned while it is decoded
    # no needless copies: each is as large as the picture, which may have 89 million pixels
    if _is_transparent(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode == "P":
        image = image.convert("RGBA")
    if image.mode != (mode := "L" if channels == 1 else "RGB"):
        image = image.convert(mode)
    return turned(image, orientation)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 if it has no valid one. Loads a PNG."""
    value = image.getexif().get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned or mirrored by an EXIF orientation."""
    return image if orientation == 1 else image.transpose(_TURNS[orientation])


def has_frames(image: Image.Image) -> bool:
    """Whether a file has more frames or pages than the one that is read."""
    return bool(getattr(image, "is_animated", False)) and image.format not in _ONE_PICTURE


def depth_of(peak: int) -> int:
    """The bits of 16-bit data: the smallest of 8, 10, 12, 14 and 16 that can hold the largest value."""
    return next(bits for bits in _DEPTHS if peak < 1 << bits)


def misfit(peak: int, depth: int) -> str | None:
    """Why a file whose largest value is `peak` (0 for 8 bits) cannot be read with `depth`; None if it can."""
    if depth == 0 and 0 < peak < _SURE:
        return (
            f"it has 16 bits, of which its values fill no more than {depth_of(peak)}, and the model only knows 8-bit "
            "files; convert it to 8 bits"
        )
    if depth and peak >= 1 << depth:
        return f"its values reach {peak:,}, more than the {depth} bits of the images that the model was trained on"
    return None


def check_size(image: Image.Image) -> None:
    """Raises DecompressionBombError above ``Image.MAX_IMAGE_PIXELS``, where Pillow itself may only warn."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(f"{image.height} x {image.width} pixels exceed the limit of {limit:,}")


def reason_of(error: BaseException) -> str:
    """Why a file could not be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def _no_range(image: Image.Image) -> str | None:
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        return f"pixels of mode {image.mode} have no fixed range; convert the file to 8 or 16 bits"
    return None


def _orientation_in(content: bytes, image: Image.Image) -> int:
    """The orientation of a file that was just opened, without loading it."""
    if image.format != "PNG":
        return orientation_of(image)
    at = 8
    while at + 8 <= len(content):
        kind, data = content[at + 4 : at + 8], at + 8
        if kind == b"eXIf" or (kind in (b"tEXt", b"zTXt", b"iTXt") and content.startswith(_PNG_TEXTS, data)):
            with Image.open(BytesIO(content)) as again:
                return orientation_of(again)
        at = data + int.from_bytes(content[at : at + 4], "big") + 4
    return 1  # no chunk can hold one; Pillow would decode the whole picture to look for EXIF data after it


def _is_deep(image: Image.Image) -> bool:
    """Whether a file that is not yet loaded has 16 bits; of colors Pillow itself only keeps the upper 8."""
    if image.mode.startswith("I"):  # Pillow stretches a PGM to 16 bits
        return True
    tiles = [tile[3] for tile in image.tile]  # pyright: ignore[reportAttributeAccessIssue]  (an ImageFile)
    if image.format == "PPM":
        return ("RGB", 0xFFFF) in tiles
    return image.format in ("PNG", "TIFF") and any(";16" in str(each) for each in tiles)


def _deep_values(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Loads a 16-bit file: its values, uint16 [H, W] or [H, W, 3], and its alpha channel [H, W], if any."""
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16), None
    import cv2

    stream = image.fp  # pyright: ignore[reportAttributeAccessIssue]  (an ImageFile)
    at = stream.tell()
    stream.seek(0)
    content = np.frombuffer(stream.read(), np.uint8)
    stream.seek(at)
    image.load()  # raises for a truncated file, of which OpenCV would return a part
    values = None
    with suppress(cv2.error):
        values = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape[:2] != (image.height, image.width):
        raise ValueError("its 16-bit colors cannot be decoded; convert the file to 8 bits")
    if values.ndim == 2:
        return values, None
    return values[..., 2::-1], values[..., 3] if values.shape[2] == 4 else None
