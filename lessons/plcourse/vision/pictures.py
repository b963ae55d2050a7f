"""Pictures of the best and worst test samples, and predicted masks as files."""

import hashlib
import heapq
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from plcourse.console.figures import caption, new_figure, save
from plcourse.data.image_files import is_image
from plcourse.data.masks import IGNORE
from plcourse.processes.collectives import gather_objects, is_distributed
from plcourse.training.variant import results_folder
from plcourse.vision.data import VisionData
from plcourse.vision.model import Columns

# one per pixel class, repeated beyond these; class 0 is not colored
COLORS = np.array(
    [(0, 0, 0), (230, 75, 53), (0, 160, 135), (60, 84, 136), (243, 155, 127), (132, 145, 180), (145, 209, 194)],
    np.uint8,
)


class Sample(TypedDict):
    """A test sample as it is drawn; without ``label`` there is no classifier, without ``masks`` no segmenter."""

    image: np.ndarray
    label: NotRequired[int]
    predicted: NotRequired[int]
    masks: NotRequired[list[np.ndarray]]  # the true and the predicted one


Ranked = tuple[float, str, Sample]  # with the score that it is ranked by, and its id


class Overlays(Callback):
    """Draws the best and worst test samples in ``plots/test-best.png`` and ``plots/test-worst.png``.

    Each sample is shown as its image, its true mask and the predicted mask, with captions; the caption of a wrong class
    is red. Samples are ranked by the IoU over all classes except class 0, or without a segmenter by the probability of
    the true class.

    Args:
        samples: samples in each picture, 1 or more.
    """

    def __init__(self, samples: int = 8) -> None:
        if samples < 1:
            raise ValueError(f"samples={samples} is below 1")
        self.samples = samples
        self._kept: dict[str, list[Ranked]] = {}

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the samples of an earlier test."""
        self._kept = {"best": [], "worst": []}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the samples of this batch that are among the best or worst so far."""
        for i, rank in enumerate(ranks(outputs, batch).tolist()):
            for name, sign in (("best", 1), ("worst", -1)):
                heap, entry = self._kept[name], (sign * rank, batch["id"][i])
                if len(heap) < self.samples or entry > heap[0][:2]:
                    keep = heapq.heappush if len(heap) < self.samples else heapq.heappushpop
                    keep(heap, (*entry, _sample(outputs, batch, i)))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the best and worst samples of all ranks on rank 0."""
        found = gather_objects(self._kept)
        data: VisionData = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)
        if not trainer.is_global_zero or not any(kept["best"] for kept in found):
            return
        folder = results_folder(trainer) / "plots"
        folder.mkdir(parents=True, exist_ok=True)
        for name, sign in (("best", 1), ("worst", -1)):
            rows = sorted((entry for kept in found for entry in kept[name]), key=lambda e: e[:2], reverse=True)
            draw([(sign * rank, each, sample) for rank, each, sample in rows[: self.samples]], data, folder, name)
        self._kept = {}


def ranks(outputs: dict[str, Tensor], batch: dict[str, Any]) -> Tensor:
    """The score that each sample is ranked by, 0 to 1 [B]."""
    if "mask" not in outputs:
        return outputs["probability"].gather(1, batch["label"][:, None])[:, 0]
    known_BHW = batch["mask"] != IGNORE
    own_BHW, true_BHW = outputs["mask"] * known_BHW, batch["mask"] * known_BHW
    either_B = ((own_BHW > 0) | (true_BHW > 0)).sum(dim=(1, 2))
    both_B = ((own_BHW == true_BHW) & (true_BHW > 0)).sum(dim=(1, 2))
    return torch.where(either_B > 0, both_B / either_B.clamp_min(1), 1.0)


def _sample(outputs: dict[str, Tensor], batch: dict[str, Any], i: int) -> Sample:
    sample: Sample = {"image": batch["image"][i].cpu().float().numpy()}
    if "probability" in outputs:
        sample["label"] = int(batch["label"][i])
        sample["predicted"] = int(outputs["probability"][i].argmax())
    if "mask" in outputs:
        sample["masks"] = [each[i].cpu().numpy().astype(np.uint8) for each in (batch["mask"], outputs["mask"])]
    return sample


def overlaid(image_HWC: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The image blended with the colors of its mask; unknown pixels become white."""
    color_HWC = COLORS[1 + (mask_HW.astype(int) - 1) % (len(COLORS) - 1)].astype(float)
    color_HWC[mask_HW == IGNORE] = 255
    return np.where((mask_HW == 0)[:, :, None], image_HWC, (image_HWC + color_HWC) / 2).round().astype(np.uint8)


def draw(rows: Sequence[Ranked], data: VisionData, folder: Path, name: str) -> None:
    """Writes the samples in the order given to ``test-<name>.png``."""
    columns = 3 if "masks" in rows[0][2] else 1
    across = 2 if len(rows) > 1 else 1
    down = -(-len(rows) // across)
    has_labels = "label" in rows[0][2]
    lines = 2 if columns > 1 else 1 + 2 * has_labels  # of the captions
    figure = new_figure(across * columns * 1.35, down * (1.4 + 0.13 * lines))
    grid = figure.subplots(down, across * columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    mean, std = (np.array(each)[:, None, None] for each in (data.normalization.mean, data.normalization.std))
    names = data.label_names
    for at, (rank, _, sample) in enumerate(rows):
        row, first = at // across, at % across * columns
        image_HWC = ((sample["image"] * std + mean) * 255).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        pictures = [image_HWC, *(overlaid(image_HWC, mask) for mask in sample.get("masks", ()))]
        titles = ["image"]
        if has_labels:
            true, predicted = (caption(names[sample[key]], 13) for key in ("label", "predicted"))
            titles = [f"true {true}\npredicted {predicted}"]
        if columns > 1:
            titles += ["true mask", f"predicted mask\nIoU {rank:.3f}"]
        else:
            titles[0] += f"\np(true) {rank:.3f}"
        for axes, picture, title in zip(grid[row, first : first + columns], pictures, titles, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_title(title, fontsize=7)
        if has_labels and sample["label"] != sample["predicted"]:
            grid[row, first].title.set_color("#c8553d")
    if columns > 1:
        masks = [mask for _, _, sample in rows for mask in sample.get("masks", ())]
        _legend(figure, data.mask_names, any((mask == IGNORE).any() for mask in masks))
    save(figure, folder / f"test-{name}.png")


def _legend(figure: Any, mask_names: list[str], any_unknown: bool) -> None:
    """Adds the legend of pixel classes below the rows."""
    from matplotlib.patches import Patch

    shown = mask_names[1 : len(COLORS)]
    patches = [Patch(color=COLORS[1 + i] / 255, label=caption(each)) for i, each in enumerate(shown)]
    if any_unknown:
        patches.append(Patch(facecolor="white", edgecolor="black", label="unknown"))
    if patches:
        figure.legend(
            handles=patches, loc="outside lower center", ncols=min(len(patches), 4), fontsize=7, frameon=False
        )


class MaskWriter(Callback):
    """Writes predicted masks as ``masks/<id>.png`` in the size of each input, and their paths into the table.

    Pixel values are class numbers; a palette shows them in color.
    """

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Removes the masks of an earlier prediction before any rank writes, unless the loop may continue it."""
        goes_on = getattr(trainer.predict_loop, "writes_predictions", False)
        if trainer.is_global_zero and not goes_on:
            shutil.rmtree(_folder(trainer), ignore_errors=True)
        if is_distributed():
            trainer.strategy.barrier()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the masks of a batch, if the model predicts any."""
        if not isinstance(outputs, Columns) or not outputs.masks:
            return
        files = [mask_file(each) for each in outputs["id"]]
        top = _folder(trainer).parent
        below = top.relative_to(trainer.default_root_dir)  # a variant has its own predictions folder
        outputs["mask_file"] = [(below / file).as_posix() for file in files]
        for file, mask_HW in zip(files, outputs.masks, strict=True):
            path = top / file
            path.parent.mkdir(parents=True, exist_ok=True)
            save_mask(mask_HW.cpu().numpy(), path)


def mask_file(name: str) -> str:
    """The path of a sample's mask below the run's folder, whatever text the id is.

    Different ids get different files. Characters that file names cannot hold are percent-encoded, as in a URL; an
    empty path component becomes ``%``, and an overlong name is cut and ends with its hash.
    """
    *folders, last = (_piece(piece) for piece in name.split("/"))
    if last.endswith(".png") and not is_image(last.removesuffix(".png")):
        last = last.removesuffix(".png")  # but a.jpg.png and a.jpg are different images
    last = last.replace(".png", "%2Epng")
    return "/".join(["masks", *(folder.replace(".png", "%2Epng") for folder in folders), f"{last}.png"])


def _piece(piece: str) -> str:
    """Maps a component of an id to a component of a path, one to one."""
    if piece in ("", ".", ".."):
        return piece.replace(".", "%2E") or "%"
    safe = "".join(c if c.isprintable() and c not in '%\\:*?"<>|' else _escaped(c) for c in piece)
    if len(safe.encode()) <= 200:
        return safe
    digest = hashlib.blake2b(piece.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return safe.encode()[:150].decode(errors="ignore") + f"%{digest}"


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))


def save_mask(mask_HW: np.ndarray, path: Path) -> None:
    """Writes a mask as a PNG with a palette, which `mask_folder` reads back unchanged."""
    height, width = mask_HW.shape
    image = Image.frombytes("P", (width, height), mask_HW.astype(np.uint8).tobytes())
    image.putpalette(bytes(COLORS[[0, *(1 + i % (len(COLORS) - 1) for i in range(255))]].reshape(-1)))
    image.save(path)


def _folder(trainer: pl.Trainer) -> Path:
    return results_folder(trainer) / "masks"
