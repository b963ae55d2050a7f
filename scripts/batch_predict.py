"""Predicts many images with one or several runs, in parallel processes, and writes one manifest.

    python scripts/batch_predict.py photos more/one.png --runs export/classifier --jobs 2 --output predicted

The files are divided into parts, and a separate process predicts each part with each run. ``manifest.json`` lists every
part with its status, Parquet files, rows and number of unreadable images that were left out. If the script was stopped,
the same command continues it. The exit status is 1 if a part failed.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from plcourse import Run
from plcourse.cli.batch import Cell, carry_out
from plcourse.data.image_files import find_images, left_out_line
from plcourse.errors import UserError
from plcourse.files import write_json
from plcourse.runs.config_yaml import parse_config
from plcourse.runs.configs import find_config

INPUTS = ("predict_paths", "paths")  # what the data modules call the files to predict


def predict(view: Run, overrides: dict[str, Any]) -> dict[str, Any]:
    """Predicts the files of one part."""
    files = view.predict(overrides)
    return {"files": [str(file) for file in files], "rows": sum(pq.read_metadata(file).num_rows for file in files)}


def image_files(inputs: list[str]) -> list[str]:
    """Lists the images that files, folders, patterns and lists stand for, each once; prints what is left out.

    Raises:
        UserError: one of them leads to no image.
    """
    left_out: Counter[str] = Counter()
    found = find_images(inputs, "inputs", left_out)
    for line in left_out_line("inputs", left_out):
        print(line)
    return list(dict.fromkeys(str(Path(each).resolve()) for each in found))


def setting_of(run: str) -> str:
    """Finds the key of a run's data module that takes the files to predict.

    Raises:
        UserError: there is no such run, or its data module takes none.
    """
    data = parse_config(find_config(str(Run.load(run).config_path))).get("data") or {}
    for key in INPUTS:
        if key in (data.get("init_args") or {}):
            return f"data.init_args.{key}"
    raise UserError(f"--runs {run}: {data.get('class_path', 'its data module')} takes no files to predict")


def plan(files: list[str], runs: list[str], part_size: int, settings: dict[str, Any], output: Path) -> list[Cell]:
    """Lists one cell per run and part."""
    cells = []
    for number, run in enumerate(runs):
        key = setting_of(run)
        for part, start in enumerate(range(0, len(files), part_size)):
            chosen = files[start : start + part_size]
            overrides = {**settings, key: chosen}
            folder = output / f"{number:02d}" / f"part-{part:05d}"
            cells.append(Cell(folder, run, {"run": run, "part": part, "inputs": len(chosen)}, overrides))
    return cells


def main(arguments: list[str] | None = None) -> None:
    """Predicts the parts, writes the manifest, and exits with status 1 if a part failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("inputs", nargs="+", help="images, folders of images, patterns, and .txt lists of images")
    parser.add_argument("--runs", nargs="+", required=True, help="folders or names of runs")
    parser.add_argument("--output", type=Path, default=Path("predicted"), help="folder of the manifest and the parts")
    parser.add_argument("--jobs", type=int, default=1, help="number of parts predicted at a time")
    parser.add_argument("--part_size", type=int, default=1000, help="number of images per part")
    parser.add_argument("--skip_unreadable", action="store_true", help="leave unreadable images out")
    options = parser.parse_args(arguments)
    settings = {"data.init_args.on_error": "skip"} if options.skip_unreadable else {}
    try:
        files = image_files(options.inputs)
        cells = plan(files, options.runs, max(1, options.part_size), settings, options.output)
    except UserError as error:
        parser.error(str(error))
    complete = carry_out(cells, predict, max(1, options.jobs))
    parts = [{**cell.labels, **cell.result} for cell in cells]
    for part in parts:
        if "rows" in part:
            part["left_out"] = part["inputs"] - part["rows"]
    totals = {key: sum(part.get(key, 0) for part in parts) for key in ("rows", "left_out")}
    write_json(options.output / "manifest.json", {"inputs": len(files), **totals, "parts": parts})
    left_out = f", {totals['left_out']} unreadable left out" if totals["left_out"] else ""
    summary = f"{totals['rows']} rows of {len(files)} images x {len(options.runs)} run(s){left_out}"
    print(f"{summary}: {options.output / 'manifest.json'}")
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
