"""The argument parser of the verbs that need no torch."""

import argparse
from typing import NoReturn

from plcourse.errors import UserError, nearest


class LineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest flag for a misspelt one.

    Args:
        verb: the verb that it parses for.
    """

    def __init__(self, verb: str) -> None:
        super().__init__(prog=f"plcourse {verb}", add_help=False, allow_abbrev=False)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parses the arguments after the verb; whatever is wrong is a UserError."""
        known, unknown = self.parse_known_args(argv)
        if unknown:
            flag = unknown[0].partition("=")[0]
            kind = "flag" if flag.startswith("-") else "argument"
            raise UserError(f"{self.prog}: unknown {kind} {flag!r}{nearest(flag, self._option_string_actions)}")
        return known

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print below its usage."""
        raise UserError(f"{self.prog}: {message}; see `{self.prog} -h`")
