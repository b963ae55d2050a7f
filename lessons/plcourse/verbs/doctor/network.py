"""Checks step by step that nodes find each other, so that the failing step shows what to fix."""

import datetime
import json
import os
import socket
import time
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from plcourse.errors import first_line
from plcourse.verbs.doctor.findings import NOTE, OK, Finding, Problem

_MEBIBYTES = 4
_ROUNDS = 10


class Meeting(NamedTuple):
    """The nodes that should connect to each other, and where."""

    host: str  # node 0, to which all others connect
    port: int  # a free port on it
    nodes: int  # number of nodes
    node_rank: int  # this node's number
    backend: str | None  # gloo or nccl; None for nccl with a GPU and gloo without
    interface: str | None  # the network interface to use; None leaves the choice to the backend
    timeout: float  # seconds to wait for the others


def examine_network(meeting: Meeting) -> Iterator[Finding]:
    """Resolves the name, connects, meets, and sums over all nodes; stops at the first step that fails."""
    try:
        address = socket.getaddrinfo(meeting.host, meeting.port, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        remedy = "give the address of node 0 as `hostname -I` prints it there"
        raise Problem(f"{meeting.host} cannot be resolved: {error}", remedy) from error
    own = _own_address(str(address), meeting.port)
    yield Finding(OK, f"{meeting.host} is {address}; this node reaches it from {own}")
    if meeting.nodes > 1 and str(address).startswith("127."):
        yield Finding(NOTE, "this is a loopback address: only processes of this machine can meet there")
    if meeting.interface is not None:
        known = [name for _, name in socket.if_nameindex()]
        if meeting.interface not in known:
            remedy = f"the interfaces here are {', '.join(known)}"
            raise Problem(f"unknown network interface {meeting.interface!r}", remedy)
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = meeting.interface
    if meeting.node_rank:
        _wait_for_node_0(meeting)
    yield from _meet(meeting, own)


def _own_address(address: str, port: int) -> str:
    """The address of this node as seen from another one; nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, port))
            return str(probe.getsockname()[0])
        except OSError:
            return "an unknown address"


def _wait_for_node_0(meeting: Meeting) -> None:
    """Waits until node 0 listens."""
    end, last = time.monotonic() + meeting.timeout, "no answer"
    while time.monotonic() < end:
        try:
            with socket.create_connection((meeting.host, meeting.port), timeout=2):
                return
        except ConnectionRefusedError:
            last = "refused: nothing listens there"
        except OSError as error:
            last = str(error)
        time.sleep(0.3)
    remedy = "if there is a firewall, open the port between the nodes"
    if last.startswith("refused"):
        remedy = "start the same command with --node_rank 0 there"
    raise Problem(f"{meeting.host}:{meeting.port} {last}", remedy)


def _meet(meeting: Meeting, own: str) -> Iterator[Finding]:
    import torch
    import torch.distributed as dist

    wait = datetime.timedelta(seconds=meeting.timeout)
    backend = meeting.backend or ("nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo")
    first = meeting.node_rank == 0
    try:
        store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]  (documented, not exported)
            meeting.host, meeting.port, None, first, wait, wait_for_workers=False
        )
    except Exception as error:
        remedy = f"on node 0 the port must be free and {meeting.host} must be its address; try another port"
        raise Problem(f"no rendezvous at {meeting.host}:{meeting.port}: {first_line(error)}", remedy) from error
    about = json.dumps({"host": socket.gethostname(), "address": own, "torch": torch.__version__, "backend": backend})
    store.set(f"node{meeting.node_rank}", about)
    try:
        store.wait([f"node{rank}" for rank in range(meeting.nodes)], wait)
    except Exception as error:
        missing = [rank for rank in range(meeting.nodes) if not store.check([f"node{rank}"])]
        remedy = f"start the same command there with --node_rank {missing[0] if missing else '?'} while this one waits"
        names = ", ".join(map(str, missing))
        raise Problem(f"node(s) {names} did not connect within {meeting.timeout:g} s", remedy) from error
    others = [json.loads(store.get(f"node{rank}")) for rank in range(meeting.nodes)]
    there = ", ".join(f"{rank}: {each['host']} ({each['address']})" for rank, each in enumerate(others))
    yield Finding(OK, f"all {meeting.nodes} nodes met: {there}")
    for key in ("torch", "backend"):
        if len({each[key] for each in others}) > 1:
            seen = ", ".join(f"node {rank} has {each[key]}" for rank, each in enumerate(others))
            raise Problem(f"the nodes differ in {key}: {seen}", "make it the same on all nodes")
    try:
        group = dist.PrefixStore("group", store)  # pyright: ignore[reportPrivateImportUsage]  (likewise)
        dist.init_process_group(backend, store=group, rank=meeting.node_rank, world_size=meeting.nodes, timeout=wait)
        yield from _sum(meeting, backend)
        store.add("done", 1)
        end = time.monotonic() + meeting.timeout
        while first and store.add("done", 0) < meeting.nodes and time.monotonic() < end:
            time.sleep(0.05)  # node 0 holds the store, so it leaves last
    except Problem:
        raise
    except Exception as error:
        here = ", ".join(name for _, name in socket.if_nameindex())
        remedy = f"use --interface to name the one that connects the nodes; this node has {here}"
        raise Problem(f"{backend} does not connect the nodes: {first_line(error)}", remedy) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _sum(meeting: Meeting, backend: str) -> Iterator[Finding]:
    import torch
    import torch.distributed as dist

    device = "cuda" if backend == "nccl" else "cpu"
    value = torch.full((_MEBIBYTES * 2**20 // 4,), float(meeting.node_rank + 1), device=device)
    dist.all_reduce(value)
    right = meeting.nodes * (meeting.nodes + 1) / 2
    if not bool((value == right).all()):
        raise Problem(f"{backend} sums wrongly", "report it with the versions of torch and the driver")
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        dist.all_reduce(value)
        value.fill_(1)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    yield Finding(OK, f"{backend} sums over the nodes: {_MEBIBYTES} MiB in {1000 * median(seconds):.1f} ms")
