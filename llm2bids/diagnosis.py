"""Compares this machine with what is needed: libraries, device, validator, memory and disk."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from llm2bids.errors import DatasetError
from llm2bids.model.smollm2 import SMOLLM2, fetched_folder, read_provenance
from llm2bids.validation import COMMAND, executable
from llm2bids.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEEDED_MEMORY, _NEEDED_DISK = 4, 1
"""GB of memory for the libraries and a small model, and of disk for a small recording with its results."""
_PYTHON: Final = "3.11"
_GB: Final = 1e9
_PATIENCE: Final = 60
"""Seconds for the validator to start."""
_NO_PROGRAMS: Final = (OSError, subprocess.SubprocessError)


@dataclass(frozen=True, slots=True)
class Check:
    """The state of one thing that is needed.

    - `name`: e.g. ``"torch"`` or ``"disk here"``.
    - `state`: every state but ``"ok"`` needs mending.
    - `found`, `needed`: versions or sizes; nothing is needed where `needed` is empty.
    - `advice`: what to do; empty if the state is ``"ok"``.
    """

    name: str
    state: Literal["ok", "old", "low", "missing"]
    found: str
    needed: str = ""
    advice: str = ""


def doctor() -> list[Check]:
    """Check what this machine has of what is needed.

    Returns
    -------
    list of Check
        Python, each library, the validator, the device that models run on, processors, memory, and free disk in this
        folder and in the one of downloaded models; whether SmolLM2 was fetched, with its licence and source.
    """
    checks = [_python(), *_libraries(), _validator(), _device(), _threads(), _memory(), _smollm2()]
    return [*checks, *(_disk(name, folder) for name, folder in _folders().items())]


def _python() -> Check:
    """Python itself."""
    running, needed = platform.python_version(), f">={_PYTHON}"
    machine = f"{running} on {platform.system()} {platform.machine()}"
    if SpecifierSet(needed).contains(running, prereleases=True):
        return Check("python", "ok", machine, needed)
    return Check("python", "old", machine, needed, f"install Python {_PYTHON} or newer, and llm2bids with it")


def _libraries() -> Iterator[Check]:
    """llm2bids itself, and each package that it requires."""
    try:
        requirements = requires("llm2bids") or []
    except PackageNotFoundError:
        advice = "install it, so that its libraries come along: pip install llm2bids"
        yield Check("llm2bids", "missing", f"{__version__}, not installed", "an installed package", advice)
        return
    yield Check("llm2bids", "ok", __version__)
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield library(requirement)


def library(requirement: Requirement) -> Check:
    """Compare the installed version of a library with the one that is required.

    >>> library(Requirement("numpy>=99")).state, library(Requirement("numpie")).state
    ('old', 'missing')
    """
    needed = str(requirement.specifier)
    advice = f"pip install '{requirement.name}{needed}'"
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return Check(requirement.name, "missing", "none", needed, advice)
    if not requirement.specifier.contains(installed, prereleases=True):
        return Check(requirement.name, "old", installed, needed, advice)
    return Check(requirement.name, "ok", installed, needed)


def _validator() -> Check:
    """The official BIDS validator, which is a program."""
    advice = f"reinstall it: pip install --force-reinstall {COMMAND}"
    name, needed = "BIDS validator", "a program that runs"
    try:
        command = [executable(), "--version"]
        subprocess.run(command, capture_output=True, check=True, timeout=_PATIENCE)  # noqa: S603
    except DatasetError as error:
        return Check(name, "missing", "none", needed, str(error).partition("; ")[2])
    except _NO_PROGRAMS as error:
        return Check(name, "missing", f"does not run ({error})", needed, advice)
    return Check(name, "ok", "runs")


def _device() -> Check:
    """The first accelerator, or the CPU, on which models run."""
    try:
        import torch  # noqa: PLC0415 - if it is missing or broken, the check says so
    except (ImportError, OSError) as error:
        return Check(
            "device", "missing", f"torch cannot be imported ({error})", "torch", "reinstall it: pip install torch"
        )
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        more = f", and {torch.cuda.device_count() - 1} more" if torch.cuda.device_count() > 1 else ""
        return Check("device", "ok", f"cuda: {gpu.name}, {gpu.total_memory / _GB:.0f} GB{more}")
    if torch.backends.mps.is_available():
        return Check("device", "ok", "mps: shares the memory of the machine")
    return Check("device", "ok", "cpu: no accelerator, which small models do not need")


def _threads() -> Check:
    """Processors, and the number of them that one process may use."""
    limit = os.environ.get("OMP_NUM_THREADS")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("processors", "ok", f"{usable}, OMP_NUM_THREADS={limit}" if limit else str(usable))


def _memory() -> Check:
    """Memory of the machine."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    except (ValueError, OSError, AttributeError):  # some systems have no such number
        return Check("memory", "ok", f"not told by {sys.platform}")
    return enough("memory", size, _NEEDED_MEMORY, "use a machine with more, or small models with --batch-size 1")


def _smollm2() -> Check:
    """The pretrained model that ``llm2bids fetch`` brings, which is not needed for anything else."""
    folder = fetched_folder()
    if folder is None:
        return Check(SMOLLM2, "ok", f"not fetched; llm2bids fetch {SMOLLM2} brings it")
    fields = read_provenance(folder)
    texts = [f"{name} {fields[name]}" for name in ("License", "BaseModel", "Wheel", "WheelSHA256") if name in fields]
    quantized = ["quantized"] if fields.get("Quantized") else []
    return Check(SMOLLM2, "ok", ", ".join([str(folder), *quantized, *texts]))


def _folders() -> dict[str, Path]:
    """Folders whose disk needs room: this one, and that of downloaded models."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    hub = Path(os.environ.get("HF_HOME", home / "huggingface"))
    return {"disk here": Path.cwd(), "disk of models": Path(os.environ.get("HF_HUB_CACHE", hub / "hub")).expanduser()}


def _disk(name: str, folder: Path) -> Check:
    """Free room on the disk of a folder, which may not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    advice = "free some" if name == "disk here" else "free some, or set HF_HOME to a folder with more"
    return enough(name, shutil.disk_usage(existing).free / _GB, _NEEDED_DISK, advice, f" free in {folder}")


def enough(name: str, size: float, needed: float, advice: str, where: str = "") -> Check:
    """Compare a size in GB with the smallest that suffices.

    >>> enough("memory", 16, 4, "buy some").state, enough("memory", 2, 4, "buy some").state
    ('ok', 'low')
    """
    text, suffices = f"{size:.1f} GB{where}", size >= needed
    return Check(name, "ok" if suffices else "low", text, f"{needed} GB", "" if suffices else advice)
