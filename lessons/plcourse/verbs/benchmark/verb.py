"""The verb `benchmark`: picks what is to be measured, and imports what that needs."""

from importlib import import_module

from plcourse import catalog
from plcourse.errors import UserError, nearest


def benchmark(verb: str, arguments: list[str]) -> None:
    """`plcourse benchmark NAME [flags]`.

    Raises:
        UserError: no such benchmark, or a bad request; RunFailed: it could not be finished.
    """
    known = ", ".join(catalog.BENCHMARKS)
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"plcourse benchmark: say first what to measure: {known}")
    name = arguments[0]
    if name not in catalog.BENCHMARKS:
        raise UserError(
            f"plcourse benchmark: there is no {name!r}, there is {known}{nearest(name, catalog.BENCHMARKS)}"
        )
    module, _, function = catalog.BENCHMARKS[name].target.partition(":")
    getattr(import_module(module), function)(arguments[1:])
