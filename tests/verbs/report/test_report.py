"""`plcourse report`: one file that needs nothing else, obeys nothing that it shows, and reads well everywhere."""

import json
import re
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from browser import PROGRAM, Browser
from plcourse.__main__ import main
from plcourse.runs.run import Run
from plcourse.verbs.report import charts, page
from plcourse.verbs.report.charts import Line, curve

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def png(width: int = 40, height: int = 30) -> bytes:
    rows = b"".join(b"\0" + bytes((x * 6 + y) % 256 for x in range(width)) for y in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def a_run(root: Path, name: str = "evaluation/classifier", seed: int = 0, accuracy: float = 0.9) -> Run:
    """A run as a fit and a test leave it, with hostile names wherever a user's own can stand."""
    best = {"metric": "val/loss", "value": 0.5, "step": 40, "epoch": 1}
    record = {"verb": "fit", "seed": seed, "best": best, "steps": 80, "training_seconds": 3.0}
    run = Run.create(name, root, record)
    run.finish("finished", command=f"plcourse fit -c x --data.root {HOSTILE}")
    run.config_path.write_text(f"seed_everything: {seed}\ndata:\n  root: '{HOSTILE}'\n")
    lines = [f"{s},{s // 40},train/loss,{2 / s}\n{s},{s // 40},val/{HOSTILE.replace(',', '')},1" for s in range(1, 81)]
    (run.path / "metrics.csv").write_text("step,epoch,metric,value\n" + "\n".join(lines) + "\n80,2,train/nan,nan\n")
    report: dict[str, Any] = {
        "metrics": {
            "test/accuracy": accuracy,
            "test/loss": 0.4,
            "test/gain": -0.02,
            "test/gain_low": -0.045,
            "test/gain_high": 0.005,
        },
        "coverage": {"expected": 200, "seen": 200, "twice": 0},
        "checkpoint": "checkpoints/best.ckpt",
        "per_class": {HOSTILE: {"n": 20, "f1": 0.9}, "y": {"n": 20, "f1": None}},
    }
    (run.path / "eval").mkdir()
    (run.path / "eval/test.json").write_text(json.dumps(report))
    (run.path / "plots").mkdir()
    for number in range(9):
        (run.path / f"plots/samples-{number:04}.png").write_bytes(png())
    (run.path / "plots/<b>bold.png").write_bytes(png())
    (run.path / "plots/broken.png").write_bytes(b"no picture")
    return run


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    run = a_run(tmp_path / "runs")
    assert main(["report", run.name]) is None
    return run.path / "report.html"


def test_the_score_comes_with_its_interval_and_the_commands_to_repeat_it(written: Path) -> None:
    text = written.read_text()
    assert "95 % interval 0.8506 to 0.9343" in text  # Wilson's of 180 in 200
    assert "200 of 200 samples seen, 0 twice" in text
    row = text[text.index("test/gain") :].partition("</tr>")[0]
    assert re.findall(r">(-?[\d.]+)<", row) == ["-0.02", "-0.045", "0.005"]
    assert "test/gain_low" not in text
    assert "plcourse test --run runs/evaluation/classifier/" in text
    assert "Lesson 16: Evaluation and prediction" in text
    assert text.count("data:image/png") == 4  # three of nine samples, and one more
    assert "from the same seeds, after epoch 0004 (file 5 of 9)" in text
    assert "broken.png, too large or not a picture" in text


def test_scores_over_folds_have_the_corrected_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = a_run(tmp_path / "runs", "kfold/classifier")
    report = {"metrics": {"val/accuracy": 0.9}, "coverage": {"expected": 200, "seen": 200, "twice": 0}}
    (run.path / "eval/val.json").write_text(json.dumps(report))
    found = {"mean": 0.9, "sd": 0.1, "low": 0.71, "high": 0.97, "naive_low": 0.8, "naive_high": 0.95}
    summary = {"metrics": {"val/accuracy": found}, "folds": [{"fold": 0, "val/accuracy": 0.9}]}
    (run.path / "summary.json").write_text(json.dumps(summary))
    (run.path / "plots/folds.png").write_bytes(png(90, 30))
    main(["report", run.name])
    text = (run.path / "report.html").read_text()
    scores = text[text.index("Part val") : text.index("</table>", text.index("Part val"))]
    assert re.findall(r"0\.\d+", scores) == ["0.9", "0.71", "0.97"]  # not Wilson's 0.8506 to 0.9343
    assert text.count('<figure class="wide">') == 1


def test_the_scaling_of_its_config_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = a_run(tmp_path / "runs", "ddp/two_processes")
    middle = {"median": 1.65, "low": 1.6, "high": 1.7}
    row = {"job": "2 ranks", "samples_per_second": middle, "speedup": middle, "efficiency": middle}
    report = {"global_batch": 64, "pairs": 9, "rows": [{**row, "memory_bytes_per_rank": 2**29}], "sentences": ["a < b"]}
    for name, config, status in (
        ("20260101-000000", "ddp/two_processes", "finished"),
        ("20260102-000000", "ddp/two_processes", "failed"),
        ("20260103-000000", "ddp/mlp", "finished"),
    ):
        folder = tmp_path / "runs/benchmarks/scaling" / name
        folder.mkdir(parents=True)
        (folder / "scaling.json").write_text(json.dumps({**report, "config": config, "status": status}))
        (folder / "scaling.png").write_bytes(png(90, 30))
    main(["report", run.name])
    text = (run.path / "report.html").read_text()
    part = text[text.index('id="scaling"') : text.index('id="config"')]
    assert "a &lt; b" in part
    assert "9 interleaved rounds" in part
    assert part.count("data:image/png") == 1
    (tmp_path / "runs/benchmarks/scaling/20260101-000000/scaling.json").write_text("{")
    main(["report", run.name])
    assert 'id="scaling"' not in (run.path / "report.html").read_text()


def test_nothing_from_outside_becomes_markup(written: Path) -> None:
    text = written.read_text()
    assert "alert(1)" in text
    assert not re.search(r"<(script|iframe|object|link (?!rel=\"icon\"))|<img src=x|<b>", text)
    assert not re.search(r"""\s(on\w+|style)=["']""", text.replace("&quot;", ""))
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", text)
    assert all(address.startswith(("data:", "#", "x")) for address in addresses)
    assert "default-src 'none'" in text


def test_missing_parts_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run.create("own/x", tmp_path / "runs", {"verb": "fit"})
    run.finish("failed", error="NaN in step 3")
    main(["report", str(run.path), "--output", "."])
    text = Path("report.html").read_text()
    assert "NaN in step 3" in text
    assert 'id="curves"' not in text
    assert 'id="repeat"' in text


def test_a_comparison_says_its_verdict_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    names = [
        a_run(tmp_path / "runs", arm, seed, 0.8 + 0.01 * seed + gain).name
        for arm, gain in (("ddp/a", 0.0), ("ddp/b", 0.1))
        for seed in range(4)
    ]
    names[-1:] = []
    extra = a_run(tmp_path / "runs", "ddp/b", 3, 0.94).name
    how = ["--metric", "test/accuracy", "--baseline", "ddp/a", "--force"]
    main(["report", *names, extra, *how, "--output", "both.html"])
    text = Path("both.html").read_text()
    assert "ddp/b is better than ddp/a by" in text
    assert text.index('id="verdict"') < text.index('id="arms"') < text.index('id="values"')
    assert "<circle" in text
    command = next(line for line in text.splitlines() if "plcourse compare" in line).rpartition("plcourse compare ")[2]
    capsys.readouterr()
    main(["compare", *shlex.split(command.partition("<")[0])])
    assert "ddp/b is better than ddp/a by" in capsys.readouterr().out
    assert command.partition("<")[0].endswith("--baseline ddp/a --force")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "no run 'nothing'"),
        (["evaluation/classifier", "--metric", "x"], "--metric is for a comparison"),
        (["evaluation/classifier", "--output", "x.txt"], "ends with .html"),
        (["evaluation/classifier", "--output", "new/x.html"], "does not exist"),
        (["evaluation/classifier", "--outptu", "x"], "did you mean '--output'?"),
    ],
)
def test_mistakes(written: Path, words: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["report", *words])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


class TestCurves:
    def test_gaps_spikes_and_scales(self) -> None:
        values = [1.0] * 5000
        values[1234] = 7.0
        drawn = curve("loss", [Line("train/loss", range(5000), values)])
        assert "lowest and highest value of each stretch" in drawn
        (text,) = re.findall(r'points="([^"]+)"', drawn)
        points = [point.split(",") for point in text.split()]
        assert len(points) <= charts._MOST_POINTS + 2
        assert min(float(y) for _, y in points) == charts._TOP  # the spike is there
        with_gap = curve("loss", [Line("a", [1, 2, 3, 4, 5], [1, 2, float("nan"), 3, 4])])
        assert with_gap.count("<polyline") == 2
        assert "logarithmic scale" in curve("loss", [Line("a", [1, 2], [1e-4, 10])])
        assert curve("loss", [Line("a", [1], [float("inf")])]) == ""
        assert "<circle" in curve("loss", [Line("a", [1], [0.0])])

    @pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 5), (0.00498, 0.00502), (1e6, 5e6), (0.3, 0.3)])
    def test_ticks_are_round_and_inside(self, low: float, high: float) -> None:
        axis = charts._Axis(low, high, 0, 100)
        ticks = axis.ticks(5)
        assert 2 <= len(ticks) <= 6
        assert all(-1 <= axis.place(tick) <= 101 for tick, _ in ticks)
        assert len({shown for _, shown in ticks}) == len(ticks)


def test_numbers_read_well() -> None:
    shown = [page.number(value) for value in (None, True, 3, 12345, 0.123456, 123456.7, float("nan"), "a<b")]
    assert shown == ["–", "True", "3", "12,345", "0.1235", "123,457", "nan", "a&lt;b"]  # noqa: RUF001


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="needs chromium")
def test_in_a_real_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a phone and a desktop, light and dark: nothing asked for, nothing complained about, nothing cut off."""
    monkeypatch.chdir(tmp_path)
    arms = [a_run(tmp_path / "runs", arm, seed, 0.8 + 0.02 * seed) for arm in ("ddp/a", "gan/b") for seed in range(3)]
    (arms[0].path / "plots/folds.png").write_bytes(png(900, 300))
    main(["report", arms[0].name])
    main(["report", *(run.name for run in arms), "--metric", "test/accuracy", "--output", "both.html"])
    with Browser() as browser:
        backgrounds = set()
        for file in (arms[0].path / "report.html", tmp_path / "both.html"):
            for width in (360, 1280):
                for scheme in ("light", "dark"):
                    browser.open(file, width, scheme)
                    browser.value("document.querySelectorAll('details').forEach(each => each.open = true)")
                    assert browser.value("document.documentElement.scrollWidth") <= width
                    assert browser.requests() == [file.resolve().as_uri()]
                    assert browser.complaints() == []
                    backgrounds.add((scheme, browser.value("getComputedStyle(document.body).backgroundColor")))
            assert browser.value("[...document.images].every(each => each.naturalWidth > 0 && each.alt)")
            assert browser.value("[...document.querySelectorAll('table')].every(each => each.caption)")
            assert browser.value("[...document.querySelectorAll('.scroll, pre')].every(each => each.tabIndex === 0)")
            browser.press("Tab")
            assert browser.value("document.activeElement.className") == "skip"
            assert browser.value("document.activeElement.getBoundingClientRect().top") >= 0
            assert browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert len(backgrounds) == 2


@pytest.mark.medium
def test_a_run_is_reported_without_anything_heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = a_run(tmp_path / "runs")
    code = (
        f"import sys; from plcourse.__main__ import main; main(['report', {run.name!r}]);"
        "sys.exit(' '.join({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
