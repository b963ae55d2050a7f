"""The command `plcourse`: finds the verb, imports what it needs, and turns errors into one line.

Nothing here imports torch, so that help, listings and mistakes are answered at once.
"""

import os
import shlex
import signal
import sys
from importlib import import_module
from pathlib import Path

from plcourse import __version__, catalog
from plcourse.console import open_streams
from plcourse.errors import RUN_FAILED, Interrupted, UserError, nearest, place, printable


def main(argv: list[str] | None = None) -> None:
    """Runs one command.

    Args:
        argv: the arguments after the program's name; those of the process when None.

    Raises:
        SystemExit: with status 2 for a bad request, 1 for a failed run, 130 after Ctrl-C and 143 after SIGTERM.
    """
    arguments = sys.argv[1:] if argv is None else argv
    open_streams()
    status, message = 0, ""
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except UserError as error:
        status, message = error.status, f"error: {error}"
        _debug()
    except (KeyboardInterrupt, Interrupted) as error:
        if argv is None:  # further signals must not change the exit status
            for late in (signal.SIGINT, signal.SIGTERM):
                signal.signal(late, signal.SIG_IGN)
        signum = error.signum if isinstance(error, Interrupted) else signal.SIGINT
        status, message = 128 + signum, f"interrupted by {signal.Signals(signum).name}"
        _debug()
    except BrokenPipeError as error:
        _drop_stdout()
        if _runs(arguments):
            status, message = RUN_FAILED, f"error: {error}"
    except Exception as error:
        status = RUN_FAILED
        first = str(error).strip().partition("\n")[0]
        message = f"error: {place(error)}{type(error).__name__}: {first} (PLCOURSE_DEBUG=1 shows the traceback)"
        if isinstance(error, OSError) and error.filename is None and not _runs(arguments):
            _drop_stdout()  # not the error of a file, so that of the output
            message = f"error: cannot write the output: {error.strerror}"
        _debug()
    if message:
        sys.stderr.write(f"plcourse: {printable(' '.join(message.split()))}\n")
    if status:
        sys.exit(status)


def _dispatch(argv: list[str]) -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the current folder was removed; change into one that exists") from error
    if not argv or argv[0] in ("-h", "--help"):
        from plcourse.cli.help import root_help

        sys.stdout.write(root_help())
        return
    if argv[0] == "--version":
        sys.stdout.write(f"plcourse {__version__}\n")
        return
    name, rest = argv[0], argv[1:]
    if name.startswith("-"):
        raise UserError(_flag_first(argv))
    if name not in catalog.VERBS:
        hint = nearest(name.lower(), catalog.VERBS)
        raise UserError(f"unknown verb {name!r}, the verbs are {', '.join(catalog.VERBS)}{hint}")
    if "-h" in rest or "--help" in rest:
        from plcourse.cli.help import verb_help

        sys.stdout.write(verb_help(name, rest))
        return
    verb = catalog.VERBS[name]
    module, _, function = verb.target.partition(":")
    target = getattr(import_module(module), function)
    try:
        target(*([name, rest] if verb.group == "run" else [rest]))
    except SystemExit as done:  # the full parser exits after --print_config and --help_all
        if done.code:
            raise


def _flag_first(argv: list[str]) -> str:
    """Returns the message for a flag in place of the verb, with the right command if that is clear."""
    position = next((at for at, word in enumerate(argv) if word in catalog.VERBS), None)
    if position is not None:
        verb = argv[position]
        return f"the verb comes first: {shlex.join(['plcourse', verb, *argv[:position], *argv[position + 1 :]])}"
    flag = argv[0].partition("=")[0]
    if flag in ("-c", "--config"):
        return f"no verb; to train: {shlex.join(['plcourse', 'fit', *argv])}"
    hint = nearest(flag, ("--version", "--help"))
    return f"unknown flag {flag!r}; a verb comes first: {', '.join(catalog.VERBS)}{hint}"


def _runs(argv: list[str]) -> bool:
    """Whether the command trains or evaluates, so that a closed pipe is a failure."""
    return bool(argv) and argv[0] in catalog.verbs_of("run") and not {"-h", "--help"} & set(argv)


def _debug() -> None:
    if os.environ.get("PLCOURSE_DEBUG") == "1":
        import traceback

        traceback.print_exc()


def _drop_stdout() -> None:
    """Discards unflushed output, so that the interpreter does not report an error at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
