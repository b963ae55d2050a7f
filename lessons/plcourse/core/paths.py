"""What a path that a person wrote stands for."""

from glob import glob
from pathlib import Path


def expand(path: str) -> list[str]:
    """The paths that `path` stands for: itself where it exists, and else what it matches as a pattern, sorted.

    A file that is called ``img[1].png`` is therefore found by its name. ``**`` matches folders at any depth.

    Returns:
        Existing paths as text; empty where there is none.
    """
    literal = Path(path)
    if literal.exists() or literal.is_symlink():
        return [path]
    return sorted(glob(path, recursive=True))  # noqa: PTH207  (pathlib's takes no absolute patterns)
