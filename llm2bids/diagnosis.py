"""What is on this machine, held against what is needed: libraries, device, validator, memory and disk."""

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

from llm2bids import __version__
from llm2bids.errors import DatasetError
from llm2bids.validation import COMMAND, executable

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEEDED_MEMORY, _NEEDED_DISK = 4, 1
"""GB: what the imports and a small model take, and what a small recording takes with its results."""
_PYTHON: Final = "3.11"
_GB: Final = 1e9
_PATIENCE: Final = 60
"""Seconds for the validator to start."""
_NO_PROGRAMS: Final = (OSError, subprocess.SubprocessError)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    - `name`: what, e.g. ``"torch"`` or ``"disk here"``.
    - `state`: how it is; all but the first are to be mended.
    - `needed`: what has to be there; empty where anything will do.
    - `advice`: what to do about it; empty where nothing has to be done.
    """

    name: str
    state: Literal["ok", "old", "low", "missing"]
    found: str
    needed: str = ""
    advice: str = ""


def doctor() -> list[Check]:
    """Say what is on this machine, and what is missing.

    Returns python, each library, the validator, the device that models run on, processors, memory, and free disk here
    and where downloaded models are kept.
    """
    checks = [_python(), *_libraries(), _validator(), _device(), _threads(), _memory()]
    return [*checks, *(_disk(name, place) for name, place in _places().items())]


def _python() -> Check:
    """Python itself."""
    found, needed = platform.python_version(), f">={_PYTHON}"
    told = f"{found} on {platform.system()} {platform.machine()}"
    if SpecifierSet(needed).contains(found, prereleases=True):
        return Check("python", "ok", told, needed)
    return Check("python", "old", told, needed, f"install Python {_PYTHON} or newer, and llm2bids with it")


def _libraries() -> Iterator[Check]:
    """Our own package, and each that it requires."""
    try:
        listed = requires("llm2bids") or []
    except PackageNotFoundError:
        advice = "install it, so that its libraries come along: pip install llm2bids"
        yield Check("llm2bids", "missing", f"{__version__}, not installed", "an installed package", advice)
        return
    yield Check("llm2bids", "ok", __version__)
    for requirement in map(Requirement, listed):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield library(requirement)


def library(requirement: Requirement) -> Check:
    """Hold an installed library against what is required of it.

    >>> library(Requirement("numpy>=99")).state, library(Requirement("numpie")).state
    ('old', 'missing')
    """
    needed = str(requirement.specifier)
    advice = f"pip install '{requirement.name}{needed}'"
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Check(requirement.name, "missing", "none", needed, advice)
    if not requirement.specifier.contains(found, prereleases=True):
        return Check(requirement.name, "old", found, needed, advice)
    return Check(requirement.name, "ok", found, needed)


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
        import torch  # noqa: PLC0415 - it may be missing or broken, which is to be said
    except (ImportError, OSError) as error:
        return Check(
            "device", "missing", f"torch cannot be imported ({error})", "torch", "reinstall it: pip install torch"
        )
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        more = f", and {torch.cuda.device_count() - 1} more" if torch.cuda.device_count() > 1 else ""
        return Check("device", "ok", f"cuda: {about.name}, {about.total_memory / _GB:.0f} GB{more}")
    if torch.backends.mps.is_available():
        return Check("device", "ok", "mps: shares the memory of the machine")
    return Check("device", "ok", "cpu: no accelerator, which small models do not need")


def _threads() -> Check:
    """Processors, and how many of them one process may use."""
    limit = os.environ.get("OMP_NUM_THREADS")
    said = f", OMP_NUM_THREADS={limit}" if limit else ""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("processors", "ok", f"{usable}{said}")


def _memory() -> Check:
    """Memory of the machine."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    except (ValueError, OSError, AttributeError):  # where the system does not say
        return Check("memory", "ok", f"not told by {sys.platform}")
    return enough("memory", found, _NEEDED_MEMORY, "use a machine with more, or small models with --batch-size 1")


def _places() -> dict[str, Path]:
    """Folders whose disk has to have room: where we are, and where downloaded models are kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    hub = Path(os.environ.get("HF_HOME", home / "huggingface"))
    return {"disk here": Path.cwd(), "disk of models": Path(os.environ.get("HF_HUB_CACHE", hub / "hub")).expanduser()}


def _disk(name: str, place: Path) -> Check:
    """Free room where a folder is, or would be."""
    there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    move = "free some" if name == "disk here" else "free some, or set HF_HOME to a folder with more"
    return enough(name, shutil.disk_usage(there).free / _GB, _NEEDED_DISK, move, f" free in {place}")


def enough(name: str, found: float, needed: float, advice: str, where: str = "") -> Check:
    """Hold a size against the least that will do.

    >>> enough("memory", 16, 4, "buy some").state, enough("memory", 2, 4, "buy some").state
    ('ok', 'low')
    """
    told = f"{found:.1f} GB{where}"
    return Check(name, "ok" if found >= needed else "low", told, f"{needed} GB", "" if found >= needed else advice)
