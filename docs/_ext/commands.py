"""Directives that ask the package itself, so that no page says other than ``--help`` and docstrings do."""

from __future__ import annotations

import argparse
import inspect
import pkgutil
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective

from llm2bids import plots
from llm2bids.cli import build_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils import nodes
    from sphinx.application import Sphinx


def find_verb(words: list[str]) -> argparse.ArgumentParser:
    """Descend from the whole command line to the parser of a verb; KeyError if there is none."""
    parser = build_parser()
    for word in words:
        parser = subparsers(parser)[word]
    return parser


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Verbs of a parser, by name."""
    return {name: verb for action in verbs_of(parser) for name, verb in action.choices.items()}


def verbs_of(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction[argparse.ArgumentParser]]:
    """The action that holds the verbs, if there is one."""
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001 - argparse has no other way


def describe(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Lines of MyST: what the verb does, how it is called, and every option."""
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=88)  # type: ignore[assignment]
    yield from [sentence(parser.description), "", "```text", parser.format_usage().strip(), "```", ""]
    yield f":::{{program}} {parser.prog}\n:::\n"
    for group in parser._action_groups:  # noqa: SLF001 - argparse has no other way
        actions = [action for action in group._group_actions if not skipped(action)]  # noqa: SLF001 - as above
        if actions:
            yield f"\n:::{{rubric}} {str(group.title).capitalize()}\n:::\n"
        for action in actions:
            yield from [f":::{{option}} {called(action)}", "", explained(parser, action), ":::", ""]
    for verb in subparsers(parser).values():
        yield f"\n## `{verb.prog}`\n"
        yield from describe(verb)


def skipped(action: argparse.Action) -> bool:
    """Whether an action is none to describe: the verbs themselves, ``--help``, and what is hidden."""
    return isinstance(action, argparse._SubParsersAction | argparse._HelpAction) or action.help is argparse.SUPPRESS  # noqa: SLF001 - as above


def called(action: argparse.Action) -> str:
    """Names and value of an option as its heading; the spelling with underscores is BIDS Apps' and left out."""
    names = [name for name in action.option_strings if "_" not in name]
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
    if not names:
        return str(value or action.dest)
    takes = action.nargs != 0
    several = f" [{value} ...]" if action.nargs in {"+", "*"} else ""
    return ", ".join(f"{name} {value}{several}".rstrip() if takes else name for name in names)


def explained(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Help of an option with its defaults filled in."""
    values: dict[str, Any] = vars(action) | {"prog": parser.prog}
    text = str(action.help or "") % values
    alone = re.fullmatch(r"\((.*)\)", text)
    return sentence(f"Default: {alone[1]}" if alone else text) if text else "As the name says."


def sentence(text: str | None) -> str:
    """Text of a parser as MyST: capital, full stop, and nothing taken for markup."""
    parts = " ".join(str(text or "").split()).split("``")  # every second one is code
    words = "".join(
        f"`{part}`" if number % 2 else re.sub(r"([\\*<\[`|])", r"\\\1", part) for number, part in enumerate(parts)
    )
    words = words[:1].upper() + words[1:]
    return words if not words or words.endswith((".", ")")) else f"{words}."


class Command(SphinxDirective):
    """``{command} networks`` documents ``llm2bids networks`` and the verbs below it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the description where the directive stands."""
        try:
            verb = find_verb(self.arguments)
        except KeyError as error:
            raise self.error(f"llm2bids has no verb {error}; take its page away") from error
        return self.parse_text_to_nodes("\n".join(describe(verb)), allow_section_headings=True)


class Verbs(SphinxDirective):
    """``{verbs}`` lists all verbs with a link to the page of each."""

    def run(self) -> list[nodes.Node]:
        """Make the table from the help of the whole command line."""
        verbs = [verb for action in verbs_of(build_parser()) for verb in action._choices_actions]  # noqa: SLF001 - as above
        rows = [f"| [`{verb.dest}`]({verb.dest}.md) | {sentence(verb.help)} |" for verb in verbs]
        toctree = ["", ":::{toctree}", ":hidden:", "", *(verb.dest for verb in verbs), ":::"]
        return self.parse_text_to_nodes("\n".join(["| verb | does |", "|---|---|", *rows, *toctree]))


class Draws(SphinxDirective):
    """``{draws}`` lists every function ``draw_…`` of ``llm2bids.plots`` with the module it is in."""

    def run(self) -> list[nodes.Node]:
        """Make one table per module from the first lines of the docstrings."""
        rows = []
        for module, thing in drawing_functions():
            first = str(inspect.getdoc(thing)).splitlines()[0]
            rows.append(f"| {{py:obj}}`{thing.__name__} <{module}.{thing.__name__}>` | {sentence(first)} |")
        return self.parse_text_to_nodes("\n".join(["| function | draws |", "|---|---|", *rows]))


def drawing_functions() -> Iterator[tuple[str, Any]]:
    """Public functions that draw, with the name of their module."""
    for module in pkgutil.walk_packages(plots.__path__, "llm2bids.plots."):
        for name, thing in vars(import_module(module.name)).items():
            if name.startswith("draw_") and thing.__module__ == module.name:
                yield module.name, thing


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command", Command)
    app.add_directive("draws", Draws)
    app.add_directive("verbs", Verbs)
    return {"parallel_read_safe": True}
