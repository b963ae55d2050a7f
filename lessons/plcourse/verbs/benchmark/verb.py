"""The verb `benchmark`: chooses the benchmark and imports only what it needs."""

from importlib import import_module

from plcourse import catalog
from plcourse.errors import UserError, nearest


def benchmark(verb: str, arguments: list[str]) -> None:
    """Runs `plcourse benchmark NAME [flags]`."""
    known = ", ".join(catalog.BENCHMARKS)
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"plcourse benchmark needs the name of a benchmark: {known}")
    name = arguments[0]
    if name not in catalog.BENCHMARKS:
        hint = nearest(name, catalog.BENCHMARKS)
        raise UserError(f"plcourse benchmark: unknown benchmark {name!r}; known are {known}{hint}")
    module, _, function = catalog.BENCHMARKS[name].target.partition(":")
    getattr(import_module(module), function)(arguments[1:])
