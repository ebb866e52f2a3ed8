"""``llm2bids completion``: prints a script that makes a shell complete commands, options, names and files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from llm2bids.cli.terminal import tell
from llm2bids.model.options import MODEL_METAVAR
from llm2bids.model.site_names import SITES

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOW: Final = """\
where scripts go:
  bash   llm2bids completion bash > ~/.local/share/bash-completion/completions/llm2bids
  zsh    llm2bids completion zsh > DIR/_llm2bids      DIR in your $fpath
  tcsh   llm2bids completion tcsh > ~/.llm2bids.tcsh  and source it in ~/.tcshrc
  fish   llm2bids completion fish > ~/.config/fish/completions/llm2bids.fish
in this bash only:  eval "$(llm2bids completion bash)"
"""
_FOLDERS: Final = frozenset({"DIR", "BIDS_DIR", "OUT_DIR", MODEL_METAVAR})
_FILES: Final = frozenset({"FILE", "MAP", "MASK", "OUT", "A", "B"})
"""Metavars of arguments that take the path of a folder, or of a file or folder."""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids completion``."""
    verb = verbs.add_parser(
        "completion",
        help="a script for your shell, which then completes all of this",
        description="Print a script that makes a shell complete commands, options, tasks, sites and files.",
        epilog=_HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("shell", choices=["bash", "zsh", "tcsh", "fish"], help="which shell")
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab  # noqa: PLC0415 - keeps --help fast

    from llm2bids.task import builtin_tasks  # noqa: PLC0415 - keeps --help fast

    parser = args.parser
    tasks = tuple(builtin_tasks())
    for action in _actions(parser):
        _complete(action, tasks)
    tell(shtab.complete(parser, args.shell).rstrip())
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """All arguments of all commands."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for verb in action.choices.values():
                yield from _actions(verb)
        else:
            yield action


def _complete(action: Any, tasks: tuple[str, ...]) -> None:
    """Set how an argument is completed."""
    if action.dest == "sites":
        action.choices = SITES
    elif action.metavar == "NAME|FILE":
        action.complete = _tasks_or_files(tasks)
    elif action.dest in {"task_label", "scans"}:
        action.choices = tasks
    elif action.metavar in _FOLDERS | _FILES:
        action.complete = "directory" if action.metavar in _FOLDERS else "file"


def _tasks_or_files(tasks: tuple[str, ...]) -> dict[str, Any]:
    """Completion of a built-in task or a file, by shell; tcsh completes tasks only."""
    names = " ".join(tasks)
    return {
        "bash": "_llm2bids_tasks",
        "zsh": "_llm2bids_tasks",
        "tcsh": f"({names})",
        "fish": f"{names} (__fish_complete_path (commandline -ct))",
        "preamble": {
            "bash": f'_llm2bids_tasks() {{\n  compgen -W "{names}" -- "$1"\n  compgen -f -- "$1"\n}}',
            "zsh": f"_llm2bids_tasks() {{ _alternative 'tasks:task:({names})' 'files:file:_files' }}",
        },
    }
