"""Writes settings as the flags of a command line."""

from collections.abc import Mapping
from typing import Any

import yaml


def as_flags(overrides: Mapping[str, Any] | None) -> list[str]:
    """Turns ``{"trainer.max_epochs": 3}`` into ``["--trainer.max_epochs=3"]``."""
    return [f"--{key}={inline(value)}" for key, value in (overrides or {}).items()]


def inline(value: object) -> str:
    """Returns a value as YAML on one line; a string as it is, because a flag would take quotes for a part of it."""
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20)
    return text.removesuffix("\n").removesuffix("\n...")
