"""The lessons, verbs, packaged configs and class names of the suite.

Every start of `plcourse` reads this module, so it imports nothing heavy.
"""

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Lesson:
    """One lesson.

    Args:
        number: its place in the course, 12 to 19.
        key: its folder, which is also the first part of its configs' names.
        title: what it is about, a few words.
        summary: what its mechanism does, one line.
    """

    number: int
    key: str
    title: str
    summary: str


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Args:
        group: `run` for verbs that train or evaluate, `look` for those that never train; of
            these only `doctor` imports torch, which it examines.
        summary: what it does, one line of the root help.
        target: `module:function`, imported only when the verb is used. A `run` function takes the verb and
            the arguments after it, a `look` function the arguments alone.
    """

    group: str
    summary: str
    target: str


LESSONS = (
    Lesson(12, "ddp", "Distributed training", "Two processes that train and evaluate exactly like one."),
    Lesson(13, "gan", "Manual optimization with GANs", "Two optimizers stepped by hand, with measured quality."),
    Lesson(14, "kfold", "Cross-validation as a fit loop", "Every fold equals a fit of its own, bit for bit."),
    Lesson(15, "curriculum", "Curriculum learning", "Samples ordered by difficulty, against equal-step arms."),
    Lesson(16, "evaluation", "Evaluation and prediction", "Test and predict loops that lose and repeat nothing."),
    Lesson(17, "export", "Export and deployment", "Exported models that prove they equal the trained one."),
    Lesson(18, "vision", "Vision project", "Classifier and segmenter in one, weight averaging or not."),
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

CLASSES = {
    "AdaptivePacing": "plcourse.curriculum.pacing.AdaptivePacing",
    "Albumentations": "plcourse.vision.augment.Albumentations",
    "Attributions": "plcourse.nlp.attribution.Attributions",
    "BiLSTM": "plcourse.nlp.networks.BiLSTM",
    "Calibration": "plcourse.evaluation.diagnostics.calibration.Calibration",
    "ClassConditionalLSTM": "plcourse.nlp.generative_classifier.ClassConditionalLSTM",
    "Classifier": "plcourse.evaluation.model.Classifier",
    "ClassifierMargin": "plcourse.curriculum.scorers.ClassifierMargin",
    "ClassifierSegmenter": "plcourse.vision.model.ClassifierSegmenter",
    "ConfidentErrors": "plcourse.evaluation.diagnostics.errors.ConfidentErrors",
    "Confusion": "plcourse.evaluation.diagnostics.confusion.Confusion",
    "ConvDiscriminator": "plcourse.gan.networks.ConvDiscriminator",
    "ConvEncoder": "plcourse.vision.networks.ConvEncoder",
    "ConvGenerator": "plcourse.gan.networks.ConvGenerator",
    "CrossValidatedLoss": "plcourse.curriculum.scorers.CrossValidatedLoss",
    "CurriculumClassifier": "plcourse.curriculum.model.CurriculumClassifier",
    "CurriculumData": "plcourse.curriculum.data.CurriculumData",
    "CurriculumLoop": "plcourse.curriculum.loop.CurriculumLoop",
    "CurriculumReport": "plcourse.curriculum.report.CurriculumReport",
    "DiagnosticTestLoop": "plcourse.evaluation.diagnostic_loop.DiagnosticTestLoop",
    "EMA": "plcourse.vision.averaging.EMA",
    "EmbeddingBag": "plcourse.nlp.networks.EmbeddingBag",
    "Ensemble": "plcourse.evaluation.uncertainty.Ensemble",
    "EvaluationData": "plcourse.evaluation.data.EvaluationData",
    "ExportData": "plcourse.export.data.ExportData",
    "ExportedModel": "plcourse.export.exported.ExportedModel",
    "FeatureNetwork": "plcourse.gan.features.FeatureNetwork",
    "FoldData": "plcourse.kfold.fold_data.FoldData",
    "FoldableNet": "plcourse.export.model.FoldableNet",
    "GAN": "plcourse.gan.nonsaturating.GAN",
    "GPT": "plcourse.nlp.gpt.GPT",
    "GaussianGrid": "plcourse.gan.gaussians.GaussianGrid",
    "GaussianQuality": "plcourse.gan.gaussians.GaussianQuality",
    "GradientCompression": "plcourse.ddp.compression.GradientCompression",
    "ImageClassifier": "plcourse.ddp.model.ImageClassifier",
    "ImageData": "plcourse.data.image_data.ImageData",
    "ImageQuality": "plcourse.gan.quality.ImageQuality",
    "Intervals": "plcourse.evaluation.diagnostics.intervals.Intervals",
    "KFoldLoop": "plcourse.kfold.loop.KFoldLoop",
    "KFoldPredictLoop": "plcourse.kfold.evaluation.KFoldPredictLoop",
    "KFoldTestLoop": "plcourse.kfold.evaluation.KFoldTestLoop",
    "KFoldValidationLoop": "plcourse.kfold.evaluation.KFoldValidationLoop",
    "LSTMLanguageModel": "plcourse.nlp.lstm.LSTMLanguageModel",
    "LanguageData": "plcourse.nlp.data.LanguageData",
    "LanguageModel": "plcourse.nlp.language_model.LanguageModel",
    "LanguageModelClassifier": "plcourse.nlp.finetuned.LanguageModelClassifier",
    "LinearBaseline": "plcourse.nlp.baselines.LinearBaseline",
    "MLP": "plcourse.ddp.networks.MLP",
    "MaskWriter": "plcourse.vision.pictures.MaskWriter",
    "Overlays": "plcourse.vision.pictures.Overlays",
    "PacingFunction": "plcourse.curriculum.pacing.PacingFunction",
    "PerClass": "plcourse.evaluation.diagnostics.per_class.PerClass",
    "PointDiscriminator": "plcourse.gan.networks.PointDiscriminator",
    "PointGenerator": "plcourse.gan.networks.PointGenerator",
    "R3GAN": "plcourse.gan.r3gan.R3GAN",
    "RandomAffine": "plcourse.data.transforms.RandomAffine",
    "RandomCrop": "plcourse.data.transforms.RandomCrop",
    "RandomFlip": "plcourse.data.transforms.RandomFlip",
    "RealImages": "plcourse.gan.data.RealImages",
    "ReferenceLoss": "plcourse.curriculum.scorers.ReferenceLoss",
    "ResNet": "plcourse.ddp.networks.ResNet",
    "RiskCoverage": "plcourse.evaluation.diagnostics.risk_coverage.RiskCoverage",
    "RowLSTM": "plcourse.export.model.RowLSTM",
    "RunCheckpoint": "plcourse.training.run_checkpoint.RunCheckpoint",
    "SWA": "plcourse.vision.averaging.SWA",
    "SamplePictures": "plcourse.gan.writer.SamplePictures",
    "ScoreColumn": "plcourse.curriculum.scorers.ScoreColumn",
    "SelfPacing": "plcourse.curriculum.self_paced.SelfPacing",
    "SentimentClassifier": "plcourse.nlp.sentiment.SentimentClassifier",
    "StreamingPredictLoop": "plcourse.evaluation.streaming_loop.StreamingPredictLoop",
    "TableData": "plcourse.kfold.data.TableData",
    "TableRegressor": "plcourse.kfold.model.TableRegressor",
    "TextCNN": "plcourse.nlp.networks.TextCNN",
    "TextData": "plcourse.nlp.data.TextData",
    "TextFloors": "plcourse.nlp.baselines.TextFloors",
    "ThroughputMonitor": "plcourse.ddp.monitor.ThroughputMonitor",
    "TorchvisionEncoder": "plcourse.vision.networks.TorchvisionEncoder",
    "TracingFitLoop": "plcourse.training.tracing.TracingFitLoop",
    "TracingPredictLoop": "plcourse.training.tracing.TracingPredictLoop",
    "TracingTestLoop": "plcourse.training.tracing.TracingTestLoop",
    "TracingValidationLoop": "plcourse.training.tracing.TracingValidationLoop",
    "VisionData": "plcourse.vision.data.VisionData",
    "WGANGP": "plcourse.gan.wgan_gp.WGANGP",
    "WarmupCosine": "plcourse.training.schedules.WarmupCosine",
    "WarmupHoldDecay": "plcourse.vision.schedule.WarmupHoldDecay",
    "WorstSlices": "plcourse.evaluation.diagnostics.slices.WorstSlices",
}

# Models that contain trained weights, so that their evaluation needs no checkpoint.
TRAINED = ("ExportedModel",)

_OWN_PATH = re.compile(r"plcourse(?:\.\w+)*\.(\w+)")


def short_class_name(name: str) -> str:
    """The catalog name of a class of the suite, which files record because it survives moves between modules.

    Args:
        name: a catalog name, or any path below `plcourse` that ends in one, such as those that 0.1.0 recorded. Every
            other name is returned unchanged.
    """
    match = _OWN_PATH.fullmatch(name)
    return match[1] if match and match[1] in CLASSES else name


def class_path(name: str) -> str:
    """The import path of a class of the suite; see `short_class_name` for the names that it takes."""
    return CLASSES.get(short_class_name(name), name)


def __getattr__(name: str) -> Any:
    """Imports a class by its catalog name: `plcourse.catalog.MLP` is a path that survives moves between modules."""
    if name not in CLASSES:
        raise AttributeError(f"module 'plcourse.catalog' has no attribute {name!r}")
    return getattr(import_module(CLASSES[name].rpartition(".")[0]), name)


def configs_dir() -> Path:
    """The folder of the packaged configs: inside the package in a wheel, beside `lessons/` in a checkout."""
    in_wheel = PACKAGE / "configs"
    return in_wheel if in_wheel.is_dir() else PACKAGE.parents[1] / "configs"


def config_names(lesson: str | None = None) -> list[str]:
    """Names such as `ddp/two_processes` of the packaged configs, in the lessons' order.

    Args:
        lesson: one lesson's key; all lessons when None.
    """
    root = configs_dir()
    keys = [known.key for known in LESSONS if lesson in (None, known.key)]
    return [f"{key}/{path.stem}" for key in keys for path in sorted((root / key).glob("*.yaml"))]


def sweep_names() -> list[str]:
    """Names such as `sweeps/ddp_learning_rate` of the packaged sweeps."""
    return [f"sweeps/{path.stem}" for path in sorted((configs_dir() / "sweeps").glob("*.yaml"))]


def config_path(name: str) -> Path:
    """The file of a packaged config; `name` is one of `config_names()` or `sweep_names()`."""
    return configs_dir() / f"{name}.yaml"


def resolved_path(name: str) -> Path:
    """The file that `cat --resolved` prints for a packaged config; `scripts/tools/resolve_configs.py` writes it."""
    return configs_dir() / "_resolved" / f"{name}.yaml"


def verbs_of(group: str) -> list[str]:
    """The verbs of one group, `run` or `look`, in the order of the help."""
    return [name for name, verb in VERBS.items() if verb.group == group]
