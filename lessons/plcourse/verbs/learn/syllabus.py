"""The plan of each lesson, which `plcourse learn` and `lessons/README.md` show."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How long a lesson takes, what it builds on and what it teaches."""

    needs: tuple[int, ...]  # lessons that it builds on
    concepts: tuple[str, ...]
    minutes: int  # for the guide, the first commands and the exercises, without long training runs
    hardware: str  # enough for every config that needs nothing; then what the others need
    outcome: str  # what one can do afterwards


PLANS = {
    12: Plan(
        (),
        ("ranks and gradients", "exact evaluation", "batch size and rate", "accumulation", "scaling efficiency"),
        90,
        "2 CPU cores; GPUs or a second machine for two of the configs",
        "train on several processes, prove that they equal one, and measure whether it was worth it",
    ),
    13: Plan(
        (12,),
        ("manual optimization", "two optimizers", "gradient penalties", "weight averages", "Frechet distance, modes"),
        90,
        "2 CPU cores",
        "step several networks by hand, with clipping, precision and processes right, and measure what comes out",
    ),
    14: Plan(
        (12,),
        ("loops as config", "stratified and grouped folds", "leaks", "corrected intervals", "out-of-fold predictions"),
        75,
        "2 CPU cores",
        "cross-validate any module, resume it, and say how sure the mean is",
    ),
    15: Plan(
        (12, 14),
        ("difficulty scores", "pacing", "equal-step comparison", "random and reversed order", "label noise"),
        75,
        "2 CPU cores",
        "order training by difficulty, and find out honestly whether it helps",
    ),
    16: Plan(
        (12,),
        ("bootstrap intervals", "calibration", "worst slices", "uncertainty", "streaming, resumable prediction"),
        90,
        "2 CPU cores",
        "diagnose a model beyond its score, and predict millions of rows in flat memory",
    ),
    17: Plan(
        (12,),
        ("torch.export", "ONNX", "static and dynamic quantization", "parity certificates", "latency percentiles"),
        75,
        "2 CPU cores",
        "ship a model as a file that proves it is the trained one, and choose the fastest",
    ),
    18: Plan(
        (12, 16),
        ("one backbone, two heads", "segmentation masks", "stochastic and exponential averaging", "BatchNorm refresh"),
        90,
        "2 CPU cores; Oxford-IIIT Pet images for one config",
        "train a classifier and a segmenter together, and judge whether averaging weights pays",
    ),
    19: Plan(
        (12, 14),
        ("character LSTM and GPT", "bits per character", "sampling", "bag, CNN, LSTM", "generative classifier"),
        120,
        "2 CPU cores",
        "train a small language model and a sentiment classifier, each against a floor it has to beat",
    ),
}

TRACKS = {
    "practitioner": (12, 13, 14, 15, 16, 17, 18, 19),
    "researcher": (12, 13, 14, 15, 16, 18, 19),
    "production engineer": (12, 16, 17),
}
