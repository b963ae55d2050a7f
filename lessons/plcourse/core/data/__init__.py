"""Sources, splits, samplers, loaders and augmentation: what the lessons' data modules compose."""

from plcourse.core.data.folder import FolderSource, open_files
from plcourse.core.data.images import (
    ImageSet,
    Normalisation,
    Process,
    eval_loader,
    fit_normalisation,
    train_loader,
)
from plcourse.core.data.loader import Batch, BatchLoader
from plcourse.core.data.mask_parts import JointAugmentation, MaskParts, MaskSet
from plcourse.core.data.masks import IGNORE, MASK_SOURCES, MaskSource, open_masks
from plcourse.core.data.parts import ImageParts, delegated
from plcourse.core.data.protocols import BatchSampler, Fetcher, Labelled, Source, Splittable
from plcourse.core.data.randoms import keys_of, normals, permutation, run_seed, uniforms
from plcourse.core.data.resize import ImageSize, Resize
from plcourse.core.data.samplers import EvalSampler, TrainSampler
from plcourse.core.data.sources import SOURCES, ArraySource, OnError, open_source, prepare
from plcourse.core.data.splits import duplicate_groups, overlap, split, training_parts
from plcourse.core.data.transforms import Augmentation, RandomAffine, RandomCrop, RandomFlip, augment_batch

__all__ = [
    "IGNORE",
    "MASK_SOURCES",
    "SOURCES",
    "ArraySource",
    "Augmentation",
    "Batch",
    "BatchLoader",
    "BatchSampler",
    "EvalSampler",
    "Fetcher",
    "FolderSource",
    "ImageParts",
    "ImageSet",
    "ImageSize",
    "JointAugmentation",
    "Labelled",
    "MaskParts",
    "MaskSet",
    "MaskSource",
    "Normalisation",
    "OnError",
    "Process",
    "RandomAffine",
    "RandomCrop",
    "RandomFlip",
    "Resize",
    "Source",
    "Splittable",
    "TrainSampler",
    "augment_batch",
    "delegated",
    "duplicate_groups",
    "eval_loader",
    "fit_normalisation",
    "keys_of",
    "normals",
    "open_files",
    "open_masks",
    "open_source",
    "overlap",
    "permutation",
    "prepare",
    "run_seed",
    "split",
    "train_loader",
    "training_parts",
    "uniforms",
]
