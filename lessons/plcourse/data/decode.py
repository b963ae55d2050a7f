"""From an image file to upright 8-bit pixels: the one rule for images, masks, sizes and new files.

* Orientation: a picture is taken as a viewer shows it, turned by its EXIF orientation whatever its format.
* Transparency: what is transparent shows white.
* Frames and pages: the first one is read.
* Depth: 16-bit values are divided by a power of two, so that the data's own range fills 8 bits; see `depth_of`.

Shape suffixes: C channels, H height, W width.
"""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

# what Pillow and its codecs raise for a file that is not the image it claims to be
DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,  # a tag of a TIFF file that holds another type than Pillow counts on
    RuntimeError,  # of the decoder of AVIF, and of formats that are known in part
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_ONE_PICTURE = ("MPO", "PSD")  # formats whose further frames are previews and layers of the same picture
_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras, scanners and microscopes deliver
_SURE = 1 << 14  # a file with a value from here on uses all 16 bits
_ORIENTATION = 0x0112  # the EXIF tag
_PNG_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # texts of a PNG that can hold an orientation
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
    """A file that is not the image it claims to be; the text is the reason."""


@dataclass(frozen=True)
class Facts:
    """What the header and the bytes of an image file say.

    Attributes:
        content: 8 bytes of BLAKE2b over the file.
        grey: whether it has no colours.
        size: height and width as shown.
        orientation: its EXIF orientation, 1 to 8.
        transparent: whether it has an alpha channel or a transparent colour.
        frames: whether it holds further frames or pages.
        peak: the largest value of a file of 16 bits; 0 for one of 8.
        error: why it cannot be read.
    """

    content: bytes = b""
    grey: bool = False
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    transparent: bool = False
    frames: bool = False
    peak: int = 0
    error: str | None = None


def inspect(path: Path, decode: bool = False) -> Facts:
    """Reads a file's bytes and header; its pixels only where `decode` asks for them or where its depth takes them."""
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content)) as image:
            check_size(image)
            if reason := _no_range(image):
                raise ValueError(reason)
            transparent, frames = _is_transparent(image), has_frames(image)
            orientation = _orientation_in(content, image)
            width, height = image.size
            if orientation >= 5 and image.format != "TIFF":  # Pillow gives a TIFF's size as shown
                height, width = width, height
            grey, peak = image.mode in _GREY_MODES, 0
            if _is_deep(image):
                peak = int(_deep_values(image)[0].max())
            elif decode:
                image.load()
            else:
                image.verify()
    except DECODE_ERRORS as error:
        return Facts(error=reason_of(error))
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return Facts(digest, grey, (height, width), orientation, transparent, frames, peak)


def glance(path: Path) -> Facts:
    """Reads a file's header alone: whether it is transparent and has further frames."""
    try:
        with Image.open(path) as image:
            return Facts(transparent=_is_transparent(image), frames=has_frames(image))
    except DECODE_ERRORS as error:
        return Facts(error=reason_of(error))


def upright(image: Image.Image, channels: int, depth: int = 0) -> Image.Image:
    """The picture that a newly opened file shows, of mode L or RGB.

    Args:
        image: opened, and not loaded yet.
        channels: 1 for L, 3 for RGB.
        depth: bits that the values of a 16-bit file are taken to have; 0 where the model knows 8-bit files alone.

    Raises:
        ValueError: its values have no fixed range, or do not fit into `depth`.
    """
    if reason := _no_range(image):
        raise ValueError(reason)
    if _is_deep(image):
        values, alpha_HW = _deep_values(image)
        pixels = (values >> (_bits(values, depth) - 8)).astype(np.uint8)
        if alpha_HW is not None:
            pixels = np.dstack([pixels, (alpha_HW >> 8).astype(np.uint8)])
        orientation, image = orientation_of(image), Image.fromarray(pixels)
    else:
        image.load()
        orientation = orientation_of(image)  # 1 for a TIFF, which is turned while it is decoded
    # without copies that change nothing: each is as large as the picture, which may have 89 million pixels
    if _is_transparent(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode == "P":
        image = image.convert("RGBA")
    if image.mode != (mode := "L" if channels == 1 else "RGB"):
        image = image.convert(mode)
    return turned(image, orientation)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 where it has none that is valid. Loads a PNG."""
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def has_orientation(image: Image.Image) -> bool:
    """Whether an image says itself how it is to be turned, be it not at all. Loads a PNG."""
    return _ORIENTATION in image.getexif()


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """An image turned or mirrored as an EXIF orientation says; itself for 1."""
    return image if orientation == 1 else image.transpose(_TURNS[orientation])


def has_frames(image: Image.Image) -> bool:
    """Whether a file holds further frames or pages than the one that is read."""
    return bool(getattr(image, "is_animated", False)) and image.format not in _ONE_PICTURE


def depth_of(peak: int) -> int:
    """The bits of 16-bit data: the smallest of 8, 10, 12, 14 and 16 that hold its largest value."""
    return next(bits for bits in _DEPTHS if peak < 1 << bits)


def misfit(peak: int, depth: int) -> str | None:
    """Why a file of 16 bits whose largest value is `peak` cannot be read with `depth`; None where it can."""
    if depth == 0 and peak < _SURE:
        return (
            f"it has 16 bits, of which its values fill no more than {depth_of(peak)}, and the model knows files of 8 "
            "bits only; convert it to 8 bits"
        )
    if depth and peak >= 1 << depth:
        return f"its values reach {peak:,}, more than the {depth} bits of the images that the model was trained on"
    return None


def check_size(image: Image.Image) -> None:
    """Refuses what Pillow only warns of: a header that asks for up to a gigabyte, whatever the file holds.

    Raises:
        Image.DecompressionBombError: more pixels than ``Image.MAX_IMAGE_PIXELS``.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(f"{image.height} x {image.width} pixels are more than {limit:,}")


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
    """The orientation of a file that has just been opened, without loading it."""
    if image.format != "PNG":
        return orientation_of(image)
    if not _has_exif(content):
        return 1  # asked for it, Pillow would decode the whole picture to look for EXIF data behind it
    with Image.open(BytesIO(content)) as again:
        return orientation_of(again)


def _has_exif(png: bytes) -> bool:
    """Whether one of the chunks of a PNG file can hold an orientation; pixels are stepped over."""
    at = 8
    while at + 8 <= len(png):
        kind, data = png[at + 4 : at + 8], at + 8
        if kind == b"eXIf" or (kind in (b"tEXt", b"zTXt", b"iTXt") and png.startswith(_PNG_TEXTS, data)):
            return True
        at = data + int.from_bytes(png[at : at + 4], "big") + 4
    return False


def _is_deep(image: Image.Image) -> bool:
    """Whether a file that is not loaded yet has 16 bits; of colours Pillow itself keeps the upper 8 alone."""
    if image.mode.startswith("I"):  # Pillow stretches a PGM to 16 bits
        return True
    tiles = [tile[3] for tile in image.tile]  # pyright: ignore[reportAttributeAccessIssue]  (an ImageFile)
    if image.format == "PPM":
        return ("RGB", 0xFFFF) in tiles
    return image.format in ("PNG", "TIFF") and any(";16" in str(each) for each in tiles)


def _deep_values(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """The values of a 16-bit file, uint16 [H, W] or [H, W, 3], and its alpha channel [H, W] if any; loads it."""
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16), None
    import cv2

    stream = image.fp  # pyright: ignore[reportAttributeAccessIssue]  (an ImageFile)
    at = stream.tell()
    stream.seek(0)
    content = np.frombuffer(stream.read(), np.uint8)
    stream.seek(at)
    image.load()  # names a torn file, of which OpenCV returns what there is
    try:
        values = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None or values.dtype != np.uint16 or values.shape[:2] != (image.height, image.width):
        raise ValueError("its colours of 16 bits cannot be decoded; convert the file to 8 bits")
    if values.ndim == 2:
        return values, None
    return values[..., 2::-1], values[..., 3] if values.shape[2] == 4 else None


def _bits(values: np.ndarray, depth: int) -> int:
    peak = int(values.max())
    if reason := misfit(peak, depth):
        raise ValueError(reason)
    return depth or 16
