"""The verb `doctor`: checks the installation, a config or the network, and imports only what the check needs."""

from argparse import Namespace
from collections.abc import Iterable
from functools import partial

from plcourse.cli.request import read_request
from plcourse.console import say
from plcourse.console.line_parser import LineParser
from plcourse.errors import RUN_FAILED, UserError
from plcourse.verbs.doctor.findings import FIX, Finding, run_checks
from plcourse.verbs.doctor.network import Meeting, examine_network

_NETWORK_FLAGS = ("--nodes", "--node_rank", "--backend", "--interface", "--timeout")


def doctor_parser() -> LineParser:
    """Returns the parser of `plcourse doctor`; `-c` has the parser of fit."""
    parser = LineParser("doctor", "[-c NAME_OR_PATH | --network HOST:PORT] [flags]")
    add = parser.add_argument
    add("--network", metavar="HOST:PORT", help="test the network: start the command on all nodes at the same time")
    add("--nodes", type=int, default=2, metavar="N", help="with --network: the number of nodes, default 2")
    node_rank = "with --network: the number of this node, from 0, which is the node that HOST names"
    add("--node_rank", type=int, metavar="K", help=node_rank)
    add("--backend", choices=("gloo", "nccl"), help="with --network: default nccl where there is a GPU, else gloo")
    add("--interface", metavar="NAME", help="with --network: the network interface to use, such as eth0")
    timeout = "with --network: how long to wait for the other nodes, default 60"
    add("--timeout", type=float, default=60, metavar="SECONDS", help=timeout)
    parser.add_runs_root()
    return parser


def doctor(argv: list[str]) -> None:
    """Runs `plcourse doctor [-c CONFIG [flags of fit] | --network HOST:PORT [flags]]`."""
    words = [word.partition("=")[0] for word in argv]
    if "-c" in words or "--config" in words:
        if "--network" in words:
            raise UserError("plcourse doctor: -c examines a config and --network the network; give one of them")
        request = read_request("fit", argv)
        from plcourse.verbs.doctor.config import examine_config  # here, since it imports torch

        _conclude(examine_config(request))
        return
    args = doctor_parser().parse(argv)
    if args.network is None:
        if given := [word for word in words if word in _NETWORK_FLAGS]:
            raise UserError(f"plcourse doctor: {given[0]} needs --network HOST:PORT")
        from plcourse.verbs.doctor.installation import examine_installation

        _conclude(examine_installation(args.runs_root))
        return
    _conclude(run_checks([partial(examine_network, _meeting(args))]))


def _meeting(args: Namespace) -> Meeting:
    host, _, port = str(args.network).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--network is {args.network!r}; give HOST:PORT, such as 10.0.0.1:29400")
    if args.node_rank is None or not 0 <= args.node_rank < args.nodes:
        others = f"1 to {args.nodes - 1} on the others"
        raise UserError(f"--node_rank is {args.node_rank}; give 0 on the node that HOST names, {others}")
    if args.timeout <= 0:
        raise UserError(f"--timeout is {args.timeout:g}; give seconds above 0")
    return Meeting(host, int(port), args.nodes, args.node_rank, args.backend, args.interface, args.timeout)


def _conclude(findings: Iterable[Finding]) -> None:
    """Prints each finding as it comes; the exit status is 1 if something must be fixed."""
    broken = 0
    for finding in findings:
        broken += finding.state == FIX
        say(finding.lines())
    if broken:
        raise UserError(f"{broken} problem(s) to fix, marked {FIX} above", RUN_FAILED)
    say("nothing to fix")
