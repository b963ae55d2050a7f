"""Which sub-folders of an image folder are parts and which are classes; folders that could be either are refused."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from plcourse.data.image_files import ImageFiles, folders_in, images_below, is_dropping, is_image, left_out_line
from plcourse.data.part_names import by_part, normal, part_of
from plcourse.errors import UserError

LAYOUT = "give a folder with one sub-folder of images per class, or with train/, val/ and test/ of such"
_ADD = "add images, or remove the folder"


def class_folders(root: str) -> ImageFiles:
    """The images in a folder with one sub-folder per class, or with parts of such.

    Sub-folders of a class folder belong to the class. Hidden files are ignored; other files that are not images are
    counted in the notes. Class names are in Unicode's composed form.

    Raises:
        UserError: `root` does not have this layout, or could be read in two ways.
    """
    top = Path(root)
    if not top.is_dir():
        raise UserError(f"image_folder: '{root}' {'is a file' if top.is_file() else 'does not exist'}; {LAYOUT}")
    parts = _parts(top)
    in_order = sorted((parts or {"": top}).items(), key=lambda item: item[1])  # the order of ids, which never changes
    found = ImageFiles(part_of=[] if parts else None)
    left_out: Counter[str] = Counter()
    for part, outer in in_order:
        for folder in folders_in(outer):
            others: Counter[str] = Counter()
            images = images_below(folder, others)
            if not images:
                raise UserError(
                    "; ".join([f"image_folder: no image in '{folder}'", *left_out_line("it", others), _ADD])
                )
            left_out += others
            found.paths += images
            found.ids += [path.relative_to(root).as_posix() for path in images]
            found.labels += [normal(folder.name)] * len(images)
            if found.part_of is not None:
                found.part_of += [part] * len(images)
    if not found.paths:
        raise UserError(f"image_folder: no class folder in '{root}'; {LAYOUT}")
    loose = _loose([top, *parts.values()], left_out)
    found.notes = left_out_line("image_folder", left_out)
    if loose:
        count = "1 image" if len(loose) == 1 else f"{len(loose):,} images"
        found.notes.append(f"image_folder: left out {count} outside of the class folders, such as '{loose[0]}'")
    return found


def _parts(top: Path) -> dict[str, Path]:
    """The parts below `top` by their names; empty where its folders are classes.

    A class may be called "train" or "test" if there are other classes beside it and it holds images, not folders.
    """
    folders = folders_in(top)
    named = [folder for folder in folders if part_of(folder.name)]
    others = [folder for folder in folders if folder not in named]
    split = [folder for folder in named if folders_in(folder)]
    if not split:
        if len(named) > 1 and not others:
            raise UserError(
                f"image_folder: {_listed(named)} in '{top}' are named like parts but have no class folders; put the "
                "images of each class into a folder, or rename these folders if they are classes"
            )
        _check_classes(top, folders)
        return {}
    if others:
        raise UserError(
            f"image_folder: the folder '{others[0].name}' beside {_listed(named)} in '{top}' is not one of the parts "
            f"train, val and test; move it elsewhere, or rename {_listed(split)} if these are classes"
        )
    parts = by_part(named, "image_folder")
    for folder in parts.values():
        if folder not in split:
            raise UserError(
                f"image_folder: '{folder}' has no class folders, unlike {_listed(split)}; add them, or move it "
                "elsewhere and predict its images with predict_paths"
            )
    if "train" not in parts:
        raise UserError(f"image_folder: '{top}' has {_listed(named)} but no train folder; {LAYOUT}")
    return parts


def _check_classes(top: Path, folders: Sequence[Path]) -> None:
    """Refuses folders of folders whose names are more likely years, sites or parts than classes."""
    inside = [folders_in(folder) for folder in folders]
    if any(is_image(path.name) for folder in folders for path in folder.iterdir()):
        return
    counts = Counter(normal(each.name) for names in inside for each in names)
    shared = sorted(name for name, count in counts.items() if count > 1)
    if len(folders) == 1 and len(inside[0]) > 1:
        raise UserError(
            f"image_folder: the only folder in '{top}' is '{folders[0].name}', which holds {_listed(inside[0])}; if "
            f"these are the classes, give '{folders[0]}' as the root"
        )
    if len(shared) > 1 and all({normal(each.name) for each in names} & set(shared) for names in inside):
        raise UserError(
            f"image_folder: {_listed(folders)} in '{top}' all hold the same folders, {_short(shared)}; if those are "
            "the classes, put their images together into one folder each, or name the outer folders train, val and test"
        )


def _loose(folders: Sequence[Path], left_out: Counter[str]) -> list[Path]:
    """The images that lie in the folders themselves; other files are counted."""
    files = [path for folder in folders for path in folder.iterdir() if path.is_file() and not is_dropping(path.name)]
    left_out.update(path.suffix.lower() for path in files if not is_image(path.name))
    return sorted(path for path in files if is_image(path.name))


def _listed(folders: Sequence[Path]) -> str:
    return _short([folder.name for folder in folders])


def _short(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:4]) + (", ..." if len(names) > 4 else "")
