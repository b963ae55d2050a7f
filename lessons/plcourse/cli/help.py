"""The short helps: static texts, printed without torch.

`plcourse` and `plcourse -h` print `root_help`, `plcourse VERB -h` prints `verb_help`. What a running verb
takes in full is for `--help_all`, which builds the real parser.
"""

from collections.abc import Sequence

from plcourse import catalog

_GROUPS = {"run": "Verbs that run", "look": "Verbs that only look"}
_FLAG_WIDTH = 34

_EXAMPLES = """\
  plcourse fit -c ddp/two_processes --then test
  plcourse fit -c ddp/two_processes --trainer.max_epochs 3 --data.init_args.batch_size 64
  plcourse test --run ddp/two_processes/latest
"""

_REST = """\
Every run gets a folder of its own below runs/ (--runs_root or PLCOURSE_RUNS moves it).
More: `plcourse ls` for the configs, `plcourse VERB -h` for the flags people use, `plcourse VERB --help_all`
for all of them, `plcourse --version`. PLCOURSE_DEBUG=1 shows the traceback of an error.
"""

_CONFIG = (
    "-c, --config NAME_OR_PATH",
    "a packaged config (`plcourse ls`) or a YAML file; several are merged in order",
)
_ROOT = ("--runs_root DIR", "where the runs are; PLCOURSE_RUNS does the same, default runs")
_TRUST = ("--trust MODULE", "let the config name classes of this module of yours; repeatable")
_PRINT = ("--print_config", "print the complete config and stop")
_DEVICES = ("--trainer.devices N", "processes, or GPUs")
_ACCELERATOR = ("--trainer.accelerator NAME", "cpu, gpu, auto")
_BATCH = ("--data.init_args.batch_size N", "samples per batch")
_DATA = ("--data.init_args.KEY VALUE", "any other argument of the data module")
_FAST = ("--trainer.fast_dev_run true", "one batch of each kind, to see that it works")
_RUN = (
    "--run RUN",
    "config and best checkpoint of a run: a folder, or a name as `plcourse ls runs` gives",
)
_CKPT = (
    "--ckpt_path best|last|PATH",
    "the checkpoint; with -c alone best and last mean the config's latest run",
)
_UNTRAINED = ("--allow_untrained", "go on without a checkpoint, with untrained weights")

_STRICT = ("--strict", "with inputs that cannot be read: predict the others, then exit with status 1")

_EVALUATION_FLAGS = (
    _RUN,
    _CONFIG,
    _CKPT,
    _UNTRAINED,
    _DEVICES,
    _ACCELERATOR,
    ("--trainer.limit_{verb}_batches N", "only the first N batches, or a share such as 0.1"),
    _FAST,
    _BATCH,
    _DATA,
    _PRINT,
    _ROOT,
    _TRUST,
)

_EVALUATIONS = ("validate", "test", "predict")

_FLAGS = {
    "fit": (
        _CONFIG,
        ("--then VERBS", "go on with test, predict, validate or export in the same command; a comma list"),
        ("--run RUN", "continue this run in its own folder; other flags change it from there on"),
        (
            "--ckpt_path last|best|PATH",
            "continue from a checkpoint; last with -c alone: of the config's latest run",
        ),
        ("--trainer.max_epochs N", "how long to train"),
        _DEVICES,
        _ACCELERATOR,
        _FAST,
        _BATCH,
        _DATA,
        ("--model.init_args.KEY VALUE", "any argument of the model"),
        ("--optimizer NAME", "another optimizer, for example Adam; its arguments as --optimizer.lr 0.001"),
        ("--seed_everything N", "the seed of everything random"),
        _PRINT,
        _ROOT,
        _TRUST,
    ),
    "validate": _EVALUATION_FLAGS,
    "test": _EVALUATION_FLAGS,
    "predict": (*_EVALUATION_FLAGS, _STRICT),
    "export": (
        _RUN,
        ("--format FORMATS", "a comma list of onnx, onnx_int8, onnx_int8_dynamic, torchscript, torch_export; or all"),
        ("--preprocess", "resize and normalise inside: the file takes uint8 pixels of any size"),
        ("--probabilities", "softmax inside: the file gives probabilities"),
        ("--max_drop X", "the test metric may be worse by so much, default 0.005"),
        ("--batch_sizes 1,3,64", "batch sizes to verify and to time"),
        ("--opset N", "the version of ONNX's operators, 18 to 23, default 20"),
        _CONFIG,
        _CKPT,
        _UNTRAINED,
        ("--trainer.limit_test_batches N", "verify on the first N batches only"),
        _DATA,
        _ROOT,
        _TRUST,
    ),
    "sweep": (
        ("-c, --config NAME_OR_PATH", "a sweep: sweeps/NAME, or a YAML file with the settings below as keys"),
        ("--arms CONFIG ...", "the configs to run: packaged names or YAML files"),
        ("--seeds 0..4", "a range, or a list such as 0,1,2; default 0"),
        ("--grid KEY=VALUE,VALUE ...", "every arm with every combination of these values; KEY as a flag of fit"),
        ("--KEY VALUE", "any setting of fit, for all cells, such as --trainer.max_epochs 3"),
        ("--n_jobs N", "cells at a time, each with its share of the cores; default 1"),
        ("--then VERBS", "after each fit: test, predict or validate; a comma list, default test"),
        ("--metric NAME", "the score to show and to compare by, such as test/accuracy"),
        ("--mode max|min", "which way is better; without it by the metric's name"),
        ("--name NAME", "its folder is runs/sweeps/NAME; default the file's name, or the arms'"),
        ("--resume [SWEEP]", "go on with a sweep: the latest, one by name or folder, or this command's own"),
        _ROOT,
        _TRUST,
    ),
    "benchmark scaling": (
        _CONFIG,
        ("--world_sizes 1,2", "ranks to measure; default 1, 2, 4, ... and all cores, or GPUs"),
        ("--pairs N", "rounds, each with every job once; default 9, and 6 or more for an interval"),
        ("--steps N", "steps that a job trains in a round; default as many as one rank takes in a second"),
        ("--warmup N", "steps of each job before the first round, default 20"),
        ("--json FILE|-", "write the numbers there too; - prints them in place of the table"),
        ("--KEY VALUE", "any setting of fit; all jobs train on batch_size times devices samples a step"),
        _ROOT,
        _TRUST,
    ),
    "benchmark latency": (
        _RUN,
        ("--format LIST", "a comma list of formats to time, as of export; default all that were exported"),
        ("--batch_sizes 1,3,64", "batch sizes to time"),
        ("--rounds N", "rounds in which all formats take turns, default 15"),
        _CKPT,
        _DATA,
        _ROOT,
        _TRUST,
    ),
    "ls": (
        ("LESSON", "one lesson, by name or number; `sweeps`; `runs` for what ran"),
        ("--json", "print JSON"),
        ("--runs_root DIR", "with `ls runs`: where the runs are; PLCOURSE_RUNS does the same, default runs"),
    ),
    "cat": (
        ("NAME_OR_PATH", "a packaged config or sweep, or a YAML file"),
        ("--resolved", "a packaged config with every default written out"),
    ),
    "cp": (
        ("NAME", "a packaged config or sweep, or a YAML file"),
        ("DEST", "a folder that exists, or a new file whose name ends with .yaml"),
        ("--force", "overwrite DEST"),
    ),
    "compare": (
        ("RUN_OR_SWEEP ...", "folders or names; the arms are the runs' configs, paired by seed, fold and split"),
        ("--metric NAME", "the score, for example test/accuracy; without it the one that the sweep names"),
        ("--mode max|min", "which way is better; without it as the runs watch the score, or by its name"),
        ("--baseline ARM", "what the others are compared with; the first arm without it"),
        ("--grid_by KEY", "one comparison per value of a config key; with one config the values are the arms"),
        ("--alpha P", "level of the tests, and 1 - P of the intervals, default 0.05"),
        ("--difference D", "the difference that matters: for the seeds needed, and to call arms equivalent"),
        ("--n_train N --n_test N", "samples of one split, for folds or repeated splits that do not record them"),
        ("--force", "compare unlike runs, leave unfinished ones out; the output says so"),
        ("--json FILE|-", "write everything as JSON; - prints it in place of the table"),
        ("--plot FILE.png", "draw the scores and the intervals of the differences"),
        _ROOT,
    ),
    "report": (
        ("RUN_OR_SWEEP ...", "one run gives its page; a sweep, or several runs, a comparison"),
        ("--output FILE.html", "where it goes; default report.html in the folder of the run or sweep"),
        ("--metric NAME", "the score to compare by; the sweep's own without it"),
        ("--mode max|min", "which way is better"),
        ("--baseline ARM", "what the others are compared with"),
        ("--grid_by KEY", "one comparison per value of a config key"),
        ("--force", "compare unlike runs; the page says so"),
        _ROOT,
    ),
    "learn": (
        ("LESSON", "a lesson by number or name: its guide; without one, the learning path"),
        ("--code", "print the lesson's idea as one short Python file, minimal.py"),
        ("--exercise DEST", "write the lesson's exercises into a folder, or one into a file that ends with .py"),
        ("--name EXERCISE", "with --exercise or --hint: this exercise alone"),
        ("--check DEST", "say what is still wrong in a file or a folder; exit status 1 until all is right"),
        ("--hint", "a hint for each exercise; with --check, for what is still wrong"),
        _ROOT,
    ),
    "doctor": (
        ("-c, --config NAME_OR_PATH", "examine a config and its data before a long run; flags of fit may follow"),
        ("--network HOST:PORT", "start it on each node at once: does everybody find everybody?"),
        ("--nodes N", "with --network: how many nodes, default 2"),
        ("--node_rank K", "with --network: which of them this is, from 0, the one that HOST names"),
        ("--backend gloo|nccl", "with --network: default nccl where there is a GPU, else gloo"),
        ("--interface NAME", "with --network: the network interface to go through, such as eth0"),
        ("--timeout SECONDS", "with --network: how long to wait for the others, default 60"),
        _ROOT,
        _TRUST,
    ),
}

_USAGE = {
    "fit": "plcourse fit -c NAME_OR_PATH [flags]",
    "validate": "plcourse validate (--run RUN | -c NAME_OR_PATH --ckpt_path CKPT) [flags]",
    "test": "plcourse test (--run RUN | -c NAME_OR_PATH --ckpt_path CKPT) [flags]",
    "predict": "plcourse predict (--run RUN | -c NAME_OR_PATH --ckpt_path CKPT) [flags]",
    "export": "plcourse export --run RUN [--format FORMATS] [flags]",
    "sweep": "plcourse sweep (-c SWEEP | --arms CONFIG... | --resume [SWEEP]) [flags]",
    "benchmark": "plcourse benchmark NAME (-c NAME_OR_PATH | --run RUN) [flags]",
    "benchmark scaling": "plcourse benchmark scaling -c NAME_OR_PATH [flags]",
    "benchmark latency": "plcourse benchmark latency --run RUN [flags]",
    "ls": "plcourse ls [LESSON | sweeps | runs] [--json]",
    "cat": "plcourse cat NAME_OR_PATH [--resolved]",
    "cp": "plcourse cp NAME DEST [--force]",
    "compare": "plcourse compare RUN_OR_SWEEP... --metric NAME [flags]",
    "report": "plcourse report RUN_OR_SWEEP... [--output FILE.html] [flags]",
    "learn": "plcourse learn [LESSON] [--code | --exercise DEST | --check DEST] [--hint]",
    "doctor": "plcourse doctor [-c NAME_OR_PATH | --network HOST:PORT] [flags]",
}


def root_help() -> str:
    """What `plcourse -h` prints."""
    parts = [
        "plcourse: eight advanced PyTorch Lightning lessons as one command suite.\n",
        "usage: plcourse VERB [flags]\n",
    ]
    for group, title in _GROUPS.items():
        lines = [f"  {name:<11}{catalog.VERBS[name].summary}" for name in catalog.verbs_of(group)]
        parts.append(f"{title}:\n" + "\n".join(lines) + "\n")
    parts.append(f"For example:\n{_EXAMPLES}")
    parts.append(_REST)
    return "\n".join(parts)


def verb_help(verb: str, words: Sequence[str] = ()) -> str:
    """What `plcourse VERB -h` prints: the usage, the flags people use, and where the rest is.

    Args:
        verb: the verb.
        words: what stands after it; a benchmark's name first gives the help of that benchmark.
    """
    known = catalog.VERBS[verb]
    flags: Sequence[tuple[str, str]] = _FLAGS.get(verb, ())
    name = verb
    if verb == "benchmark":
        flags = [(name, each.summary) for name, each in catalog.BENCHMARKS.items()]
        if words and words[0] in catalog.BENCHMARKS:
            known, name = catalog.BENCHMARKS[words[0]], f"benchmark {words[0]}"
            flags = _FLAGS[name]
    lines = [f"usage: {_USAGE[name]}", "", f"{known.summary[0].upper()}{known.summary[1:]}.", ""]
    for flag, text in (*flags, ("-h, --help", "this help")):
        flag = flag.format(verb={"validate": "val"}.get(verb, verb))
        gap = " " * _FLAG_WIDTH if len(flag) > _FLAG_WIDTH - 4 else None
        lines.append(f"  {flag:<{_FLAG_WIDTH - 2}}{text}" if gap is None else f"  {flag}\n{gap}{text}")
    if name == "benchmark":
        lines += ["", "The flags of each: `plcourse benchmark NAME -h`."]
    elif catalog.VERBS[verb].group == "run":
        full = {"export": "test"}.get(verb, verb if verb in _EVALUATIONS else "fit")
        lines += [
            "",
            f"All flags: `plcourse {full} --help_all`.",
            f"A class's arguments: `plcourse {full} --model.help ImageClassifier`.",
            "A config's text: `plcourse cat NAME`, with every default: `plcourse cat NAME --resolved`.",
        ]
    return "\n".join(lines) + "\n"
