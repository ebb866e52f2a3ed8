"""The history of a folder: the commands that wrote its files, one line of JSON per command.

A dataset keeps it as ``code/llm2bids_history.jsonl``, where BIDS lets anything lie; a folder that is no dataset has
``llm2bids_history.jsonl`` at its top. There are no dates in it, so the same commands give the same bytes.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass
from functools import wraps
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.tables import read_json, write_bytes
from llm2bids.errors import DatasetError
from llm2bids.options import bind, declared_options, flag_of
from llm2bids.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

HISTORY: Final = "llm2bids_history.jsonl"
"""Name of the file."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command that wrote files.

    Parameters
    ----------
    command : str
        A shell command that does the same. Objects in memory, such as a model, are named in angle brackets.
    version : str
        Version of llm2bids.
    outputs : tuple of str
        Files that it wrote, relative to the folder of the history, with ``/`` between folders; sorted.
    """

    command: str
    version: str
    outputs: tuple[str, ...]


def read_history(root: str | Path) -> list[Step]:
    """Read which commands wrote the files of a folder.

    Parameters
    ----------
    root : path-like
        A dataset, or a folder of results.

    Returns
    -------
    list of Step
        In order of their last writing; empty without a history, which older versions did not write.

    Raises
    ------
    DatasetError
        If the file holds something else.
    """
    path = _place(Path(root))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [Step(str(row["command"]), str(row["version"]), tuple(map(str, row["outputs"]))) for row in rows]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is no history that llm2bids wrote ({error}); restore it, or remove it") from error


def steps_of(path: str | Path) -> list[Step]:
    """Find the commands that wrote a file.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    list of Step
        Those of the nearest folder above whose history names the file, the last one last; empty if there is none.

    Raises
    ------
    DatasetError
        If a history cannot be read.
    """
    file = Path(path).absolute()
    for folder in file.parents:
        name = file.relative_to(folder).as_posix()
        if steps := [step for step in read_history(folder) if name in step.outputs]:
            return steps
    return []


def note(root: Path, command: str, files: Iterable[Path]) -> None:
    """Add a command to the history of a folder, unless it wrote no file.

    The same command of the same version is one step, last in order, with the files that it wrote before and now.
    """
    outputs = {path.relative_to(root).as_posix() for path in files}
    if not outputs:
        return
    try:
        with _locked(root):
            steps = read_history(root)
            same = [step for step in steps if (step.command, step.version) == (command, __version__)]
            outputs.update(name for step in same for name in step.outputs)
            different = [step for step in steps if step not in same]
            _write(root, [*different, Step(command, __version__, tuple(sorted(outputs)))])
    except OSError as error:
        raise DatasetError(
            f"{_place(root)} could not be written ({error.strerror or error}); the results are complete: mend that, "
            "and the next command is noted"
        ) from error


def to_note(root: Path, skipped: Mapping[Path, bool]) -> set[Path]:
    """Choose the files of a call that its step in the history names.

    `skipped`: by file, whether it existed before the call. The call wrote the others. Of the existing ones those are
    chosen that no step names: a call that was broken off wrote them.
    """
    existing = {path for path, exists in skipped.items() if exists}
    recorded = {root / name for step in read_history(root) for name in step.outputs} if existing else set()
    return {*skipped} - (existing & recorded)


def noted(command: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Make the function of a verb add its calls to the history; a call that fails adds nothing.

    The function is made by `takes`, and its options have the folder of the history as ``home``. Its result, or every
    item of a list, has ``files``, and ``skipped`` if they existed already. The step names the files that the call
    wrote, and those of an earlier call that was broken off and is completed now.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        cls = function.options  # type: ignore[attr-defined]

        @wraps(function)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            options: Any = bind(cls, function.__name__, args, kwargs)
            result: Any = function(options)  # type: ignore[call-arg]
            skipped: dict[Path, bool] = {}
            for item in result if isinstance(result, list) else [result]:
                for path in item.files:  # a file that several results share is new where one of them is
                    skipped[path] = skipped.get(path, True) and getattr(item, "skipped", False)
            note(options.home, command_line(command, options), to_note(options.home, skipped))
            return result  # type: ignore[no-any-return]

        return call

    return decorate


def command_line(command: str, options: Any) -> str:
    """Write the call of a verb as a line for a shell.

    Options that have their default are left out. Arguments by place come first, since options take as many values as
    follow.
    """
    by_place, by_flag = list[str](), list[str]()
    for part in declared_options(options):
        value, flag = getattr(options, part.name), flag_of(part)
        texts = _texts(value)
        if not flag and value is not None:
            by_place.append(texts[0] if len(texts) == 1 else f"<{' '.join(texts)}>")
        elif flag and part.metadata["noted"] and (part.default is MISSING or texts != _texts(part.default)):
            by_flag += _flag(flag, value, texts)
    return shlex.join(["llm2bids", *command.split(), *by_place, *by_flag])


def _flag(flag: str, value: object, texts: Sequence[str]) -> list[str]:
    """A flag with its values; a value that looks like a flag is joined to it by ``=``."""
    if isinstance(value, bool):
        return [flag]
    if len(texts) == 1 and texts[0].startswith("-") and not isinstance(value, Number):
        return [f"{flag}={texts[0]}"]
    return [flag, *texts]


def _texts(value: object) -> list[str]:
    """A value, or several, as they are typed."""
    if isinstance(value, Mapping):
        return [_text(item) for item in value.values()]
    return [_text(item) for item in value] if isinstance(value, list | tuple) else [_text(value)]


def _text(value: object) -> str:
    """One value as it is typed; an object in memory by the name of its type."""
    return str(value) if value is None or isinstance(value, str | Path | Number) else f"<{type(value).__name__}>"


def _place(root: Path) -> Path:
    """Path of the history of a folder."""
    return root / "code" / HISTORY if (root / "dataset_description.json").is_file() else root / HISTORY


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep other processes from writing the history of a dataset at the same time."""
    description = root / "dataset_description.json"
    if not description.is_file():
        yield
        return
    raw = read_json(description).get("DatasetType", "raw") == "raw"
    with Dataset(root, "raw" if raw else "derivative").lock():
        yield


def _write(root: Path, steps: Sequence[Step]) -> None:
    """Write all steps at once."""
    lines = [json.dumps(asdict(step), ensure_ascii=False) for step in steps]
    write_bytes(_place(root), "\n".join([*lines, ""]).encode())
