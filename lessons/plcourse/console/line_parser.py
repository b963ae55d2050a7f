"""The argument parser of the verbs that need no torch."""

import argparse
from typing import NoReturn

from plcourse.errors import UserError, nearest


class LineParser(argparse.ArgumentParser):
    """An argument parser with one-line errors, which suggest the nearest flag for a misspelled one.

    ``usage`` is what follows the verb on the help page, which a script makes from the parser.
    """

    def __init__(self, verb: str, usage: str) -> None:
        super().__init__(prog=f"plcourse {verb}", usage=f"plcourse {verb} {usage}", add_help=False, allow_abbrev=False)

    def add_runs_root(self, condition: str = "") -> None:
        """Adds --runs_root; the condition begins its help."""
        text = f"{condition}the root folder of all runs; default PLCOURSE_RUNS, else runs"
        self.add_argument("--runs_root", metavar="DIR", help=text)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parses the arguments after the verb; raises UserError if they are wrong."""
        known, unknown = self.parse_known_args(argv)
        if unknown:
            flag = unknown[0].partition("=")[0]
            kind = "flag" if flag.startswith("-") else "argument"
            raise UserError(f"{self.prog}: unknown {kind} {flag!r}{nearest(flag, self._option_string_actions)}")
        return known

    def error(self, message: str) -> NoReturn:
        """Raises a UserError with the message that argparse would print below its usage."""
        raise UserError(f"{self.prog}: {message}; see `{self.prog} -h`")
