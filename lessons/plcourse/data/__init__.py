"""Sources, splits, samplers, loaders and augmentation: what the lessons' data modules compose."""

from plcourse.data.image_data import ImageData
from plcourse.data.image_folder import FolderSource, open_files
from plcourse.data.image_splits import ImageSplits
from plcourse.data.images import ImageDataset, Normalization, Process, eval_loader, fit_normalization, train_loader
from plcourse.data.loader import Batch, BatchLoader
from plcourse.data.mask_splits import JointAugmentation, MaskDataset, MaskSplits
from plcourse.data.masks import IGNORE, MASK_SOURCES, MaskSource, open_masks
from plcourse.data.protocols import BatchSampler, Fetcher, Labeled, Source, Splittable
from plcourse.data.randoms import keys_of, normals, permutation, run_seed, uniforms
from plcourse.data.resize import ImageSize, Resize
from plcourse.data.samplers import EvalSampler, TrainSampler
from plcourse.data.source_splits import SourceSplits, delegated
from plcourse.data.sources import SOURCES, ArraySource, OnError, open_source, prepare
from plcourse.data.splits import duplicate_groups, overlap, split, training_parts
from plcourse.data.transforms import Augmentation, RandomAffine, RandomCrop, RandomFlip, augment_batch

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
    "ImageData",
    "ImageDataset",
    "ImageSize",
    "ImageSplits",
    "JointAugmentation",
    "Labeled",
    "MaskDataset",
    "MaskSource",
    "MaskSplits",
    "Normalization",
    "OnError",
    "Process",
    "RandomAffine",
    "RandomCrop",
    "RandomFlip",
    "Resize",
    "Source",
    "SourceSplits",
    "Splittable",
    "TrainSampler",
    "augment_batch",
    "delegated",
    "duplicate_groups",
    "eval_loader",
    "fit_normalization",
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
