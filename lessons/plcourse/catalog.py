"""The lessons, verbs, packaged configs and class names of the suite.

Every start of `plcourse` reads this module, so it imports nothing heavy.
"""

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Lesson:
    """One lesson."""

    number: int  # its place in the course, 12 to 19
    key: str  # its folder, and the first part of its configs' names
    title: str  # its subject, a few words
    summary: str  # what its mechanism does, one line


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    A function of the group ``run``, whose verbs train or evaluate, takes the verb and the arguments after it; one of
    the group ``look`` takes the arguments alone.
    """

    group: Literal["run", "look"]
    summary: str  # one line of the root help
    target: str  # `module:function`, imported only when the verb is used


LESSONS = (
    Lesson(12, "ddp", "Distributed training", "Two processes train and evaluate exactly as one does."),
    Lesson(13, "gan", "Manual optimization with GANs", "A module steps two optimizers and measures its samples."),
    Lesson(14, "kfold", "Cross-validation as a fit loop", "Every fold equals a separate fit, bit for bit."),
    Lesson(15, "curriculum", "Curriculum learning", "Samples in order of difficulty, compared at equal steps."),
    Lesson(16, "evaluation", "Evaluation and prediction", "Test and predict loops lose and repeat no sample."),
    Lesson(17, "export", "Export and deployment", "Exported models, each verified against the trained one."),
    Lesson(18, "vision", "Vision project", "A classifier and segmenter, with or without averaged weights."),
    Lesson(19, "nlp", "Language project", "A character language model and a sentiment classifier."),
)

VERBS = {
    "fit": Verb("run", "train a model, validating as it goes", "plcourse.cli:run_verb"),
    "validate": Verb("run", "score a checkpoint on the validation part", "plcourse.cli:run_verb"),
    "test": Verb("run", "score a checkpoint on the test part", "plcourse.cli:run_verb"),
    "predict": Verb("run", "write a checkpoint's predictions", "plcourse.cli:run_verb"),
    "export": Verb("run", "write a checkpoint in other formats, each verified", "plcourse.cli:run_verb"),
    "sweep": Verb("run", "run arms, seeds and a grid, and resume them", "plcourse.verbs.sweep.verb:sweep"),
    "benchmark": Verb("run", "measure a config or a run: scaling, latency", "plcourse.verbs.benchmark.verb:benchmark"),
    "ls": Verb("look", "list lessons and configs, or `ls runs`", "plcourse.verbs.list_configs:ls"),
    "cat": Verb("look", "print a config, --resolved in full", "plcourse.verbs.list_configs:cat"),
    "cp": Verb("look", "copy a config to edit it", "plcourse.verbs.list_configs:cp"),
    "compare": Verb("look", "compare arms over their runs, with the right test", "plcourse.verbs.compare.verb:compare"),
    "report": Verb("look", "write a run or a comparison as one HTML page", "plcourse.verbs.report.verb:report"),
    "learn": Verb("look", "the learning path, a lesson's guide, its exercises", "plcourse.verbs.learn.verb:learn"),
    "doctor": Verb("look", "examine the installation, a config, the network", "plcourse.verbs.doctor.verb:doctor"),
}

BENCHMARKS = {
    "scaling": Verb(
        "run", "samples/s, communication and memory of 1, 2, 4, ... ranks", "plcourse.verbs.benchmark.scaling:scaling"
    ),
    "latency": Verb("run", "the fastest verified export of a run, per batch size", "plcourse.cli:latency"),
}

# The classes that configs name, by module.
_CLASSES = {
    "curriculum.data": "CurriculumData",
    "curriculum.loop": "CurriculumLoop",
    "curriculum.model": "CurriculumClassifier",
    "curriculum.pacing": "AdaptivePacing PacingFunction",
    "curriculum.report": "CurriculumReport",
    "curriculum.scorers": "ClassifierMargin CrossValidatedLoss ReferenceLoss ScoreColumn",
    "curriculum.self_paced": "SelfPacing",
    "data.image_data": "ImageData",
    "data.transforms": "RandomAffine RandomCrop RandomFlip",
    "ddp.compression": "GradientCompression",
    "ddp.model": "ImageClassifier",
    "ddp.monitor": "ThroughputMonitor",
    "ddp.networks": "MLP ResNet",
    "evaluation.data": "EvaluationData",
    "evaluation.diagnostic_loop": "DiagnosticTestLoop",
    "evaluation.diagnostics.calibration": "Calibration",
    "evaluation.diagnostics.confusion": "Confusion",
    "evaluation.diagnostics.errors": "ConfidentErrors",
    "evaluation.diagnostics.intervals": "Intervals",
    "evaluation.diagnostics.per_class": "PerClass",
    "evaluation.diagnostics.risk_coverage": "RiskCoverage",
    "evaluation.diagnostics.slices": "WorstSlices",
    "evaluation.model": "Classifier",
    "evaluation.streaming_loop": "StreamingPredictLoop",
    "evaluation.uncertainty": "Ensemble",
    "export.data": "ExportData",
    "export.exported": "ExportedModel",
    "export.model": "FoldableNet RowLSTM",
    "gan.data": "RealImages",
    "gan.features": "FeatureNetwork",
    "gan.gaussians": "GaussianGrid GaussianQuality",
    "gan.networks": "ConvDiscriminator ConvGenerator PointDiscriminator PointGenerator",
    "gan.nonsaturating": "GAN",
    "gan.quality": "ImageQuality",
    "gan.r3gan": "R3GAN",
    "gan.wgan_gp": "WGANGP",
    "gan.writer": "SamplePictures",
    "kfold.data": "TableData",
    "kfold.evaluation": "KFoldPredictLoop KFoldTestLoop KFoldValidationLoop",
    "kfold.fold_data": "FoldData",
    "kfold.loop": "KFoldLoop",
    "kfold.model": "TableRegressor",
    "nlp.attribution": "Attributions",
    "nlp.baselines": "LinearBaseline TextFloors",
    "nlp.data": "LanguageData TextData",
    "nlp.finetuned": "LanguageModelClassifier",
    "nlp.generative_classifier": "ClassConditionalLSTM",
    "nlp.gpt": "GPT",
    "nlp.language_model": "LanguageModel",
    "nlp.lstm": "LSTMLanguageModel",
    "nlp.networks": "BiLSTM EmbeddingBag TextCNN",
    "nlp.sentiment": "SentimentClassifier",
    "training.run_checkpoint": "RunCheckpoint",
    "training.schedules": "PerEpoch WarmupCosine",
    "training.tracing": "TracingFitLoop TracingPredictLoop TracingTestLoop TracingValidationLoop",
    "vision.augment": "Albumentations",
    "vision.averaging": "EMA SWA",
    "vision.data": "VisionData",
    "vision.model": "ClassifierSegmenter",
    "vision.networks": "ConvEncoder TorchvisionEncoder",
    "vision.pictures": "MaskWriter Overlays",
    "vision.schedule": "WarmupHoldDecay",
}
CLASSES = dict(
    sorted((name, f"plcourse.{module}.{name}") for module, names in _CLASSES.items() for name in names.split())
)

# Models that contain trained weights, so that their evaluation needs no checkpoint.
TRAINED = ("ExportedModel",)

# The packages inside `lightning`, whose classes are copies of those of the installed packages.
_LIGHTNING = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}
_OWN_PATH = re.compile(r"plcourse(?:\.\w+)*\.(\w+)")


def short_class_name(name: str) -> str:
    """Returns the catalog name of a class of the suite, which files record because it survives moves between modules.

    It takes a catalog name, or any path below `plcourse` that ends in one, such as version 0.1.0 recorded. A class of
    `lightning.pytorch` gets its `installed_name`. Every other name is returned unchanged.
    """
    match = _OWN_PATH.fullmatch(name)
    return match[1] if match and match[1] in CLASSES else installed_name(name)


def installed_name(name: str) -> str:
    """Returns the installed name of a class or module of `lightning`; every other name is returned unchanged."""
    for package, installed in _LIGHTNING.items():
        if name == package or name.startswith(f"{package}."):
            return installed + name.removeprefix(package)
    return name


def class_path(name: str) -> str:
    """Returns the import path of a class of the suite, which it takes as `short_class_name` does."""
    short = short_class_name(name)
    return CLASSES.get(short, short)


def __getattr__(name: str) -> Any:
    """Imports a class by its catalog name: `plcourse.catalog.MLP` is a path that survives moves between modules."""
    if name not in CLASSES:
        raise AttributeError(f"module 'plcourse.catalog' has no attribute {name!r}")
    return getattr(import_module(CLASSES[name].rpartition(".")[0]), name)


def configs_dir() -> Path:
    """Returns the folder of the packaged configs: inside the package in a wheel, beside `lessons/` in a checkout."""
    in_wheel = PACKAGE / "configs"
    return in_wheel if in_wheel.is_dir() else PACKAGE.parents[1] / "configs"


def config_names(lesson: str | None = None) -> list[str]:
    """Returns the names of the packaged configs, such as `ddp/two_processes`, of one lesson or of all in order."""
    root = configs_dir()
    keys = [known.key for known in LESSONS if lesson in (None, known.key)]
    return [f"{key}/{path.stem}" for key in keys for path in sorted((root / key).glob("*.yaml"))]


def sweep_names() -> list[str]:
    """Returns the names of the packaged sweeps, such as `sweeps/ddp_learning_rate`."""
    return [f"sweeps/{path.stem}" for path in sorted((configs_dir() / "sweeps").glob("*.yaml"))]


def config_path(name: str) -> Path:
    """Returns the file of a packaged config or sweep."""
    return configs_dir() / f"{name}.yaml"


def resolved_path(name: str) -> Path:
    """Returns the file of a config in full, for `cat --resolved`; `scripts/tools/resolve_configs.py` writes it."""
    return configs_dir() / "_resolved" / f"{name}.yaml"


def verbs_of(group: str) -> list[str]:
    """Returns the verbs of one group, in the order of the help."""
    return [name for name, verb in VERBS.items() if verb.group == group]
