"""The argument parser of the running verbs."""

import re
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser

from plcourse.catalog import short_class_name
from plcourse.cli.cli_errors import Explainer


class CourseParser(LightningArgumentParser):
    """Lightning's parser with one-line errors and without abbreviated flags.

    Attributes:
        explainer: turns errors into one line. It is set before each parse, on the class, because jsonargparse creates
            the parsers of nested classes itself.
    """

    explainer = Explainer()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Returns a config as text with the catalog names of the suite's classes."""
        text = super().dump(*args, **kwargs)
        return re.sub(
            r"""(?<=class_path)("?: ?"?)([\w.]+)""", lambda found: found[1] + short_class_name(found[2]), text
        )

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raises a `UserError` instead of printing the usage."""
        raise CourseParser.explainer.explain(message, [action.dest for action in self._actions]) from ex
