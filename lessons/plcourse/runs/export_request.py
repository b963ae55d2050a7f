"""Reads the flags of `export` and `benchmark latency`. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from plcourse.errors import UserError, nearest

FORMATS = ("onnx", "onnx_int8", "onnx_int8_dynamic", "torchscript_trace", "torchscript_script", "torch_export")
ALIASES = {"torchscript": ("torchscript_trace", "torchscript_script"), "all": FORMATS}
OPSETS = range(18, 24)  # those that torch's exporter writes and onnxruntime reads
EXPORT_SWITCHES = ("--preprocess", "--probabilities")
EXPORT_FLAGS = ("--format", "--batch_sizes", "--max_drop", "--opset", "--rounds", *EXPORT_SWITCHES)
LATENCY_FLAGS = ("--format", "--batch_sizes", "--rounds")


@dataclass(frozen=True)
class ExportRequest:
    """The settings of an export and of its verification."""

    formats: tuple[str, ...] = ("onnx",)  # those of `FORMATS` to write or to time
    preprocess: bool = False  # whether the graph resizes and normalizes, and so takes uint8 pixels
    probabilities: bool = False  # whether the graph ends with a softmax
    batch_sizes: tuple[int, ...] = (1, 3, 64)  # at which outputs are compared and latencies measured
    max_drop: float = 0.005  # how much worse the test metric may get, in units of the metric
    opset: int = 20  # of ONNX
    rounds: int = 15  # interleaved rounds of `benchmark latency`

    @classmethod
    def read(cls, flags: Mapping[str, list[str]]) -> "ExportRequest":
        """Reads the flags of `EXPORT_FLAGS` and ignores others; raises a UserError for an invalid value."""
        settings: dict[str, object] = {name.removeprefix("--"): True for name in EXPORT_SWITCHES if name in flags}
        if "--format" in flags:
            settings["formats"] = _formats(flags["--format"])
        if "--batch_sizes" in flags:
            settings["batch_sizes"] = tuple(_number("--batch_sizes", word, 1) for word in words(flags["--batch_sizes"]))
        if "--max_drop" in flags:
            settings["max_drop"] = _fraction("--max_drop", flags["--max_drop"][-1])
        if "--opset" in flags:
            settings["opset"] = _number("--opset", flags["--opset"][-1], OPSETS[0], OPSETS[-1])
        if "--rounds" in flags:
            settings["rounds"] = _number("--rounds", flags["--rounds"][-1], 1)
        return cls(**settings)  # pyright: ignore[reportArgumentType]  (each was read as its type)

    def flags(self) -> list[str]:
        """Returns the flags that give these settings."""
        return [
            f"--format={','.join(self.formats)}",
            f"--batch_sizes={','.join(map(str, self.batch_sizes))}",
            f"--max_drop={self.max_drop}",
            f"--opset={self.opset}",
            *(["--preprocess"] if self.preprocess else []),
            *(["--probabilities"] if self.probabilities else []),
        ]


def words(values: list[str]) -> list[str]:
    """Returns the words of comma lists."""
    return [word.strip() for word in ",".join(values).split(",") if word.strip()]


def _formats(values: list[str]) -> tuple[str, ...]:
    known = (*FORMATS, *ALIASES)
    chosen: list[str] = []
    for word in words(values):
        if word not in known:
            raise UserError(f"--format: unknown format '{word}'; known are {', '.join(known)}{nearest(word, known)}")
        chosen += ALIASES.get(word, (word,))
    if not chosen:
        raise UserError(f"--format takes a comma list of {', '.join(known)}")
    # torch_export comes last: after it fails, torch's other exporters freeze shapes that it could not keep dynamic
    return tuple(name for name in FORMATS if name in chosen)


def _number(flag: str, word: str, least: int, most: int | None = None) -> int:
    range_ = f"{least} to {most}" if most is not None else f"{least} or more"
    if not word.isdecimal() or int(word) < least or (most is not None and int(word) > most):
        raise UserError(f"{flag} takes integers, {range_}, not '{word}'")
    return int(word)


def _fraction(flag: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{flag} takes a number, 0 or more, such as 0.005, not '{word}'")
    return value
