"""Reads the comment at the top of a config. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from plcourse import catalog
from plcourse.errors import UserError, nearest
from plcourse.runs.configs import ConfigSource

NEEDS = ("nothing", "gpu", "two nodes", "a file", "a run")


@dataclass(frozen=True)
class ConfigHeader:
    """The contents of the comment at the top of a config; `parse_header` describes the format.

    Args:
        command: the command that runs it, one line.
        shows: what the run shows, one or two sentences.
        verbs: the verbs that it is made for.
        needs: what must exist before it runs; empty when it runs anywhere.
    """

    command: str
    shows: str
    verbs: tuple[str, ...]
    needs: tuple[str, ...]


def parse_header(source: ConfigSource) -> ConfigHeader:
    """Reads the comment at the top of a config.

    The first line is a command that begins with `plcourse` or `torchrun`. Free text follows, which says what the run
    shows, and two lines end the comment::

        # plcourse fit -c ddp/two_processes --then test
        # Two gloo processes train a small ResNet on mnist5k; the same batches, losses and weights as
        # one process.
        # verbs: fit, validate, test, predict
        # needs: nothing

    `verbs` lists running verbs. `needs` is `nothing`, or lists any of `gpu`, `two nodes`, `a file` and `a run`.
    Comments after an empty line are ignored.

    Raises:
        UserError: a part is missing, or a word is not one of the above.
    """
    lines = []
    for line in source.text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    if not lines or not lines[0].startswith(("plcourse ", "torchrun ")):
        raise UserError(f"{source.label}:1: the first line is not a comment with the command that runs this config")
    if len(lines) < 4 or not lines[-2].startswith("verbs:") or not lines[-1].startswith("needs:"):
        raise UserError(
            f"{source.label}: the comment at the top must contain the command, what it shows, `verbs:` and `needs:`"
        )
    verbs = _words(source, lines[-2], catalog.verbs_of("run"), len(lines) - 1)
    needs = _words(source, lines[-1], NEEDS, len(lines))
    if "nothing" in needs and len(needs) > 1:
        raise UserError(f"{source.label}:{len(lines)}: `needs:` is either `nothing` or what is needed, not both")
    return ConfigHeader(lines[0], " ".join(lines[1:-2]), verbs, tuple(word for word in needs if word != "nothing"))


def _words(source: ConfigSource, line: str, known: Sequence[str], number: int) -> tuple[str, ...]:
    """The words after the colon of a header line, each checked."""
    key, _, rest = line.partition(":")
    words = tuple(word.strip() for word in rest.split(","))
    for word in words:
        if word not in known:
            where, hint = f"{source.label}:{number}", nearest(word, known)
            raise UserError(f"{where}: `{key}:` has {word!r}, which is not one of {', '.join(known)}{hint}")
    return words
