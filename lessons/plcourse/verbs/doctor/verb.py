"""`plcourse doctor` as it is typed; imports what it examines only once it examines it."""

from collections.abc import Iterable, Sequence
from typing import Any

from plcourse.console import say
from plcourse.console.line_parser import LineParser
from plcourse.errors import RUN_FAILED, UserError
from plcourse.verbs.doctor.findings import FIX, Finding
from plcourse.verbs.doctor.network import Meeting, examine_network

_NETWORK_FLAGS = ("--nodes", "--node_rank", "--backend", "--interface", "--timeout")


def doctor(argv: list[str]) -> None:
    """`plcourse doctor [-c CONFIG [flags of fit] | --network HOST:PORT [flags]]`."""
    words = [word.partition("=")[0] for word in argv]
    if "-c" in words or "--config" in words:
        from plcourse.verbs.doctor.config import examine_config

        if "--network" in words:
            raise UserError("plcourse doctor: -c examines a config, --network a network; give one of them")
        _conclude(examine_config(argv))
        return
    parser = LineParser("doctor")
    parser.add_argument("--runs_root")
    parser.add_argument("--network", metavar="HOST:PORT")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--node_rank", type=int)
    parser.add_argument("--backend", choices=("gloo", "nccl"))
    parser.add_argument("--interface")
    parser.add_argument("--timeout", type=float, default=60)
    args = parser.parse(argv)
    if args.network is None:
        _only_with_network(words)
        from plcourse.verbs.doctor.installation import examine_installation

        _conclude(examine_installation(args.runs_root))
        return
    _conclude(examine_network(_meeting(vars(args))))


def _only_with_network(words: Sequence[str]) -> None:
    given = [word for word in words if word in _NETWORK_FLAGS]
    if given:
        raise UserError(f"plcourse doctor: {given[0]} goes with --network HOST:PORT")


def _meeting(given: dict[str, Any]) -> Meeting:
    host, _, port = str(given["network"]).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--network {given['network']!r}: give HOST:PORT, such as 10.0.0.1:29400")
    if given["node_rank"] is None or not 0 <= given["node_rank"] < given["nodes"]:
        raise UserError(
            f"--node_rank {given['node_rank']}: give 0 on the node that HOST names, "
            f"1 to {given['nodes'] - 1} on the others"
        )
    if given["timeout"] <= 0:
        raise UserError(f"--timeout {given['timeout']:g}: give seconds above 0")
    keys = ("nodes", "node_rank", "backend", "interface", "timeout")
    return Meeting(host, int(port), *(given[key] for key in keys))


def _conclude(findings: Iterable[Finding]) -> None:
    """Says each finding as it comes; status 1 where something has to be mended."""
    broken = 0
    for finding in findings:
        broken += finding.state == FIX
        say(finding.lines())
    if broken:
        raise UserError(f"{broken} to be mended, marked {FIX} above", RUN_FAILED)
    say("nothing to mend")
