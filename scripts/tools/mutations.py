"""Damages files of every kind that the suite reads and sends them through its readers, for `faults.py --mutations`."""

import random
import resource
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Returns a damaged copy: bits flipped, cut short, or a piece repeated, removed, overwritten or made hostile."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        until = min(len(data), at + rng.choice((1, 2, 8, 64)))
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and rng.random() < 0.3:
            del data[at:]
        elif kind == 2:
            data[at:at] = data[at:until] * rng.choice((1, 2, 50))
        elif kind == 3:
            del data[at:until]
        elif kind == 4:
            data[at:until] = rng.randbytes(until - at)
        else:
            data[at:until] = rng.choice(_HOSTILE)
    return bytes(data)


_HOSTILE = (
    *(b"\x00", b"\xff\xfe", b"\xff" * 8, b"-1", b"1e999", b"NaN", b"null", b"[]", b"{}", b'"', b"'", b"\n", b","),
    *(
        b"9" * 5000,
        b"[" * 3000,
        b'{"a":' * 3000,
        b"../../x",
        b"\x1b]0;x\x07",
        b"&a [*a, *a]",
        b"!!python/name:os.system",
    ),
)


@dataclass(frozen=True)
class Target:
    """A kind of file: an intact example, its reader, and the errors with which the reader refuses a bad file."""

    name: str
    content: bytes
    read: Callable[[Path], object]
    named: tuple[type[Exception], ...]


def targets(folder: Path) -> list[Target]:
    """Lists every kind of foreign file that the suite reads, each with its reader.

    Args:
        folder: where the intact files are made.
    """
    import io

    import numpy as np
    import onnx
    import pandas as pd
    import torch
    from PIL import Image

    from plcourse.data.frames import read_frame
    from plcourse.data.image_folder import UnreadableImage, read_image
    from plcourse.data.texts import open_texts
    from plcourse.errors import UserError
    from plcourse.evaluation.shards import Shard, ShardFolder, _line
    from plcourse.export.artifacts import checked_onnx
    from plcourse.runs.config_yaml import parse_config
    from plcourse.runs.configs import ConfigSource
    from plcourse.runs.record import read_record
    from plcourse.runs.run import Run
    from plcourse.training import checkpoint

    def image(kind: str) -> bytes:
        stream = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(pixels).save(stream, kind)
        return stream.getvalue()

    frame = pd.DataFrame({"id": ["a", "b", "c"] * 5, "x": np.arange(15.0), "label": [0, 1, 2] * 5})
    reviews = pd.DataFrame({"text": [f"number {i}" for i in range(12)], "label": ["good", "bad"] * 6})
    weights = io.BytesIO()
    torch.save({"state_dict": {"w": torch.ones(3)}, "epoch": 1}, weights)
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    port = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 3]) for name in "xy"]
    graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", port[:1], port[1:]))
    config = (ROOT / "configs" / "ddp" / "two_processes.yaml").read_text(encoding="utf-8")

    def open_table(path: Path) -> object:
        return open_texts("text_table", str(path))

    def parse(path: Path) -> object:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:  # which find_config turns into one line
            raise UserError("not UTF-8") from error
        return parse_config(ConfigSource("x.yaml", "x.yaml", text, packaged=False))

    def beside(name: str) -> Callable[[Path], Path]:
        def place(path: Path) -> Path:
            (file := folder / "run" / name).parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(path.read_bytes())
            return file

        return place

    metrics, evaluation = beside("metrics.csv"), beside("eval/test.json")
    manifest, journal = (
        beside("predictions/_partial/_manifest.json"),
        beside("predictions/_partial/journal-00000.jsonl"),
    )

    def open_shards(place: Callable[[Path], Path]) -> Callable[[Path], object]:
        def read(path: Path) -> object:
            place(path)
            shards = ShardFolder(folder / "run" / "predictions", "key", "parquet")
            try:
                return shards.open()
            finally:
                shards.close()

        return read

    line = _line(Shard("part-0.parquet", first=1, batches=1, rows=1, bytes=1))
    user = (UserError,)
    return [
        *(
            Target(kind, image(kind), lambda path: read_image(path, (3, 12, 12)), (UnreadableImage,))
            for kind in ("png", "jpeg", "bmp", "gif", "tiff", "webp")
        ),
        Target("csv", frame.to_csv(index=False).encode(), read_frame, user),
        Target("tsv", frame.to_csv(index=False, sep="\t").encode(), read_frame, user),
        Target("jsonl", str(reviews.to_json(lines=True, orient="records")).encode(), open_table, user),
        Target("parquet", frame.to_parquet(), read_frame, user),
        Target("yaml", config.encode(), parse, user),
        Target("json", b'{"schema": 1, "status": "running", "best": {"value": 0.5}}', read_record, user),
        Target(
            "metrics",
            b"step,epoch,metric,value\n" + b"1,0,train/loss,0.5\n" * 9,
            lambda path: Run(metrics(path).parent).metrics,
            user,
        ),
        Target("eval", b'{"metrics": {"a": 1}}', lambda path: Run(evaluation(path).parents[1]).eval("test"), user),
        Target("manifest", b'{"schema": 1, "key": "key", "complete": false}', open_shards(manifest), user),
        Target("journal", line.encode() * 3, open_shards(journal), user),
        Target("checkpoint", weights.getvalue(), checkpoint.load, user),
        Target("onnx", graph.SerializeToString(), checked_onnx, user),
    ]


OUTCOMES = ("read", "warned", "named", "escaped")
_SUFFIX = {"metrics": "csv", "eval": "json", "manifest": "json", "journal": "jsonl", "checkpoint": "ckpt"}


class Mutations(NamedTuple):
    """The outcomes of mutated files.

    Attributes:
        outcomes: how many files of each kind were ``read``, read with a warning of a library (``warned``), refused by
            name (``named``), or ``escaped``.
        escaped: a line for each file that escaped.
        largest: the file that raised the peak memory most, and by how many MiB.
    """

    outcomes: Counter[tuple[str, str]]
    escaped: list[str]
    largest: tuple[str, float]


def peak_mib() -> float:
    """Returns the peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def mutate_all(count: int, seed: int, folder: Path) -> Mutations:
    """Reads ``count`` mutated files, of every kind in turn.

    Args:
        count: files.
        seed: seed of the mutations; file i of a seed is always the same.
        folder: an empty folder to work in.
    """
    kinds = targets(folder)
    outcomes: Counter[tuple[str, str]] = Counter()
    escaped, largest, peak = [], ("", 0.0), peak_mib()
    for number in range(count):
        target = kinds[number % len(kinds)]
        path = folder / f"mutated.{_SUFFIX.get(target.name, target.name)}"
        path.write_bytes(mutated(target.content, random.Random(f"{seed}/{number}")))
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                target.read(path)
            outcome = "read" if not warned else "warned"
        except target.named as error:
            outcome = "named" if str(error).strip() and "\n" not in str(error).strip() else "escaped"
            if outcome == "escaped":
                escaped.append(f"{target.name} {seed}/{number}: not one line: {str(error)!r:.200}")
        except Exception as error:
            outcome = "escaped"
            escaped.append(f"{target.name} {seed}/{number}: {type(error).__name__}: {error!s:.200}")
        outcomes[target.name, outcome] += 1
        before, peak = peak, peak_mib()
        largest = max(largest, (f"{target.name} {seed}/{number}", peak - before), key=lambda each: each[1])
    return Mutations(outcomes, escaped, largest)


def print_mutations(count: int, seed: int) -> int:
    """Prints the outcomes of mutated files; returns 1 if any escaped, else 0."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcomes, escaped, (largest, grown) = mutate_all(count, seed, Path(folder))
    print("kind         read warned  named escaped")
    for kind in dict.fromkeys(name for name, _ in outcomes):
        print(f"{kind:10}" + "".join(f"{outcomes[kind, what]:7}" for what in OUTCOMES))
    print(f"{count} files in {time.monotonic() - begun:.0f} s")
    print(f"{peak_mib():.0f} MiB at most, of which {largest} took {grown:.0f} MiB beyond all before it")
    print("\n".join(escaped[:20]))
    return int(bool(escaped))
