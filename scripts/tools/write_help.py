"""Writes the help pages, so that `plcourse -h` and `plcourse VERB -h` answer without building a parser.

The pages of looking verbs and of sweep and benchmark scaling show their own parsers. The other running verbs have
hundreds of flags: their pages show a short list, and each flag in it must exist in the real parser.

python scripts/tools/write_help.py           # rewrite them
python scripts/tools/write_help.py --check   # exit 1 where one is out of date
"""

import argparse
import sys
import textwrap

from plcourse import catalog
from plcourse.cli.course_cli import Resolver
from plcourse.cli.help import FOLDER
from plcourse.cli.messages import quieten
from plcourse.cli.request import OWN_FLAGS, read_request
from plcourse.verbs.benchmark.plan import scaling_parser
from plcourse.verbs.compare.verb import compare_parser
from plcourse.verbs.doctor.verb import doctor_parser
from plcourse.verbs.learn.verb import learn_parser
from plcourse.verbs.list_configs import cat_parser, cp_parser, ls_parser
from plcourse.verbs.report.verb import report_parser
from plcourse.verbs.sweep.command import sweep_parser

INDENT = 34  # columns before the text of a flag
LINE = 110  # columns of a line at most
Rows = list[tuple[str, str]]

CONFIG = ("-c, --config NAME_OR_PATH", "a packaged config (`plcourse ls`) or a YAML file; several are merged in order")
ROOT = ("--runs_root DIR", "the root folder of all runs; default PLCOURSE_RUNS, else runs")
TRUST = ("--trust MODULES", "allow the config to name classes of your modules; a comma list, repeatable")
PRINT = ("--print_config", "print the complete config and stop")
DEVICES = ("--trainer.devices N", "the number of processes or GPUs")
ACCELERATOR = ("--trainer.accelerator NAME", "cpu, gpu or auto")
FAST = ("--trainer.fast_dev_run true", "run one batch of each kind, as a trial")
BATCH = ("--data.init_args.batch_size N", "samples per batch")
DATA = ("--data.init_args.KEY VALUE", "any other argument of the data module")
RUN = ("--run RUN", "use the config and best checkpoint of a run: a folder, or a name in `plcourse ls runs`")
CKPT = ("--ckpt_path best|last|PATH", "the checkpoint; with -c, best and last are those of the config's latest run")
ARTIFACT = ("--trust_artifact PATH", "open this TorchScript or torch.export file, or those in a folder, unsigned")
WRITES = ("--allow_writes DIR", "allow the config to write into this folder; repeatable")
DOWNLOADS = ("--allow_downloads", "download a data set that is missing")
UNTRAINED = ("--allow_untrained", "continue without a checkpoint, with untrained weights")


def evaluation(part: str) -> Rows:
    """The flags of a verb that evaluates a checkpoint."""
    limit = (f"--trainer.limit_{part}_batches N", "use only the first N batches, or a fraction such as 0.1")
    common = [RUN, CONFIG, CKPT, UNTRAINED, DEVICES, ACCELERATOR, limit, FAST, BATCH, DATA, PRINT, ROOT]
    return [*common, TRUST, ARTIFACT, WRITES, DOWNLOADS]


RUNNING: dict[str, tuple[str, Rows]] = {
    "fit": (
        "-c NAME_OR_PATH [flags]",
        [
            CONFIG,
            ("--then VERBS", "run these afterwards: a comma list of test, predict, validate and export"),
            ("--run RUN", "continue this run in its own folder; other flags change it from there on"),
            (
                "--ckpt_path last|best|PATH",
                "continue from a checkpoint; with -c, last is that of the config's latest run",
            ),
            ("--force", "continue the run although it may be in use on another machine"),
            ("--trainer.max_epochs N", "how long to train"),
            DEVICES,
            ACCELERATOR,
            FAST,
            BATCH,
            DATA,
            ("--model.init_args.KEY VALUE", "any argument of the model"),
            ("--optimizer NAME", "another optimizer, for example Adam; its arguments as --optimizer.lr 0.001"),
            ("--seed_everything N", "the seed of all random numbers"),
            PRINT,
            ROOT,
            TRUST,
            WRITES,
            DOWNLOADS,
        ],
    ),
    "validate": ("(--run RUN | -c NAME_OR_PATH --ckpt_path CKPT) [flags]", evaluation("val")),
    "test": ("(--run RUN | -c NAME_OR_PATH --ckpt_path CKPT) [flags]", evaluation("test")),
    "predict": (
        "(--run RUN | -c NAME_OR_PATH --ckpt_path CKPT) [flags]",
        [*evaluation("predict"), ("--strict", "exit with status 1 where an input cannot be read; predict the others")],
    ),
    "export": (
        "--run RUN [--format FORMATS] [flags]",
        [
            RUN,
            (
                "--format FORMATS",
                "a comma list of onnx, onnx_int8, onnx_int8_dynamic, torchscript, torch_export; or all",
            ),
            ("--preprocess", "resize and normalize in the graph, which then takes uint8 pixels of any size"),
            ("--probabilities", "end the graph with a softmax"),
            ("--max_drop X", "how much worse the test metric may be, default 0.005"),
            ("--batch_sizes 1,3,64", "batch sizes to verify and to time"),
            ("--opset N", "the ONNX operator set, 18 to 23, default 20"),
            CONFIG,
            CKPT,
            UNTRAINED,
            ("--trainer.limit_test_batches N", "verify on the first N batches only"),
            DATA,
            ROOT,
            TRUST,
            WRITES,
            DOWNLOADS,
        ],
    ),
    "benchmark latency": (
        "--run RUN [flags]",
        [
            RUN,
            ("--format LIST", "a comma list of formats to time, as for export; default all that were exported"),
            ("--batch_sizes 1,3,64", "batch sizes to time"),
            ("--rounds N", "rounds in which the formats take turns, default 15"),
            CKPT,
            DATA,
            ROOT,
            TRUST,
            ARTIFACT,
            WRITES,
            DOWNLOADS,
        ],
    ),
}
PARSERS = {
    "sweep": sweep_parser(),
    "benchmark scaling": scaling_parser(),
    "ls": ls_parser(),
    "cat": cat_parser(),
    "cp": cp_parser(),
    "compare": compare_parser(),
    "report": report_parser(),
    "learn": learn_parser(),
    "doctor": doctor_parser(),
}
# What these verbs pass on to the parser of fit.
PASSED_ON: dict[str, Rows] = {
    "sweep": [("--KEY VALUE", "any setting of fit, for all cells, such as --trainer.max_epochs 3")],
    "benchmark scaling": [
        CONFIG,
        ("--KEY VALUE", "any setting of fit; each job trains on batch_size times devices samples per step"),
        TRUST,
        WRITES,
        DOWNLOADS,
    ],
    "doctor": [
        ("-c, --config NAME_OR_PATH", "test a config and its data before a long run; flags of fit may follow"),
        TRUST,
        WRITES,
        DOWNLOADS,
    ],
}
EXAMPLES = """\
For example:
  plcourse fit -c ddp/two_processes --then test
  plcourse fit -c ddp/two_processes --trainer.max_epochs 3 --data.init_args.batch_size 64
  plcourse test --run ddp/two_processes/latest

Every run gets its own folder below runs/ (--runs_root or PLCOURSE_RUNS changes this).
More: `plcourse ls` lists the configs, `plcourse VERB -h` the common flags, `plcourse VERB --help_all` all flags,
`plcourse --version` the version. PLCOURSE_DEBUG=1 shows the traceback of an error.
"""


def rows_of(parser: argparse.ArgumentParser) -> Rows:
    """The arguments of a parser with their help."""
    rows = []
    for action in parser._actions:
        assert action.help, f"{parser.prog}: {action.dest} has no help"
        value = "|".join(action.choices) if action.choices else str(action.metavar or "")
        value = {"+": f"{value} ...", "?": f"[{value}]" if action.option_strings else value}.get(
            str(action.nargs), value
        )
        names = ", ".join(action.option_strings)
        rows.append((f"{names} {value}".strip(), action.help))
    return rows


def check_flags() -> None:
    """Raises an AssertionError for a flag on a page of a running verb that its parser does not know."""
    for name, (_, rows) in RUNNING.items():
        verb = name if name in catalog.VERBS and name != "export" else "test"
        config = Resolver.of(read_request(verb, ["-c", "ddp/one_process", "--allow_untrained"][: 2 + (verb != "fit")]))
        known = {*OWN_FLAGS, "--print_config", "--optimizer", "--seed_everything"}
        for flag, _ in rows:
            flag = flag.split(",")[0].split()[0]
            if not flag.endswith(".KEY") and flag not in known:
                assert flag.removeprefix("--") in config.config[verb], f"{name}: unknown flag {flag}"


def page(name: str) -> str:
    """The help of a verb or a benchmark."""
    verb, _, benchmark = name.partition(" ")
    known = catalog.BENCHMARKS[benchmark] if benchmark else catalog.VERBS[verb]
    if name == "benchmark":
        usage, rows = (
            "NAME (-c NAME_OR_PATH | --run RUN) [flags]",
            [(k, b.summary) for k, b in catalog.BENCHMARKS.items()],
        )
    elif name in RUNNING:
        usage, rows = RUNNING[name]
    else:
        usage = str(PARSERS[name].usage).removeprefix(f"plcourse {name} ")
        rows = [*PASSED_ON.get(name, []), *rows_of(PARSERS[name])]
    lines = [f"usage: plcourse {name} {usage}", "", f"{known.summary[0].upper()}{known.summary[1:]}.", ""]
    for flag, text in (*rows, ("-h, --help", "show this help")):
        first, *others = textwrap.wrap(text, LINE - INDENT, break_on_hyphens=False)
        fits = len(flag) <= INDENT - 4
        lines.append(f"  {flag:<{INDENT - 2}}{first}" if fits else f"  {flag}\n{'':{INDENT}}{first}")
        lines += [f"{'':{INDENT}}{other}" for other in others]
    if name == "benchmark":
        lines += ["", "The flags of each: `plcourse benchmark NAME -h`."]
    elif catalog.VERBS[verb].group == "run":
        full = {"export": "test"}.get(verb, verb if verb in ("validate", "test", "predict") else "fit")
        lines += [
            "",
            f"All flags: `plcourse {full} --help_all`.",
            f"The arguments of a class: `plcourse {full} --model.help ImageClassifier`.",
            "The text of a config: `plcourse cat NAME`; with every default: `plcourse cat NAME --resolved`.",
        ]
    return "\n".join(lines) + "\n"


def root_page() -> str:
    """The help of `plcourse` itself."""
    lines = ["plcourse: eight advanced PyTorch Lightning lessons as one command suite.", ""]
    lines += ["usage: plcourse VERB [flags]", ""]
    for group, title in {"run": "Verbs that run", "look": "Verbs that only look"}.items():
        lines.append(f"{title}:")
        lines += [f"  {name:<11}{catalog.VERBS[name].summary}" for name in catalog.verbs_of(group)]
        lines.append("")
    return "\n".join(lines) + "\n" + EXAMPLES


def main() -> None:
    """Rewrites or checks the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 where a page is out of date")
    check = parser.parse_args().check
    quieten()
    check_flags()
    names = [*catalog.VERBS, *(f"benchmark {name}" for name in catalog.BENCHMARKS)]
    pages = {"plcourse": root_page(), **{name.replace(" ", "_"): page(name) for name in names}}
    found = {file.stem: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.txt")}
    stale = sorted(name for name in {*pages, *found} if pages.get(name) != found.get(name))
    if not check:
        FOLDER.mkdir(exist_ok=True)
        for name in stale:
            if name in pages:
                (FOLDER / f"{name}.txt").write_text(pages[name], encoding="utf-8")
            else:
                (FOLDER / f"{name}.txt").unlink()
    print(f"{'out of date' if check else 'rewritten'}: {', '.join(stale) or 'none'}")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
