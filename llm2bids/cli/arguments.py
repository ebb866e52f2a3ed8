"""Options of a verb as arguments of its parser, and back; messages in the spelling of the command line."""

from __future__ import annotations

import re
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any

from llm2bids.options import choices_of, declared_options, flag_of

if TYPE_CHECKING:
    import argparse
    from dataclasses import Field


def add_options(verb: argparse.ArgumentParser, cls: Any) -> None:
    """Add every option of a class of options to the parser of a verb, group by group."""
    groups: dict[str, Any] = {"": verb}
    # a list by place takes as many values as follow, so it comes after all else by place
    for part in sorted(declared_options(cls), key=lambda part: part.metadata["place"] and part.metadata["many"]):
        if not part.metadata["typed"]:
            continue
        title = part.metadata["group"]
        if title not in groups:
            groups[title] = verb.add_argument_group(title)
        flag = flag_of(part)
        names = [flag] if flag else [part.name]
        if "label" in part.name:  # as BIDS Apps spell it
            names.append(flag.replace("-label", "_label"))
        groups[title].add_argument(*names, **_argument(part, flag))
    if not any(part.name == "json" for part in declared_options(cls)):
        verb.add_argument("--json", action="store_true", help="print the result for programs")
    verb.set_defaults(options=cls)


def values_of(args: argparse.Namespace) -> dict[str, Any]:
    """Give the options that were typed, by name; the others keep their defaults."""
    names = [part.name for part in declared_options(args.options) if part.metadata["typed"]]
    return {name: getattr(args, name) for name in names}


def as_typed(message: str, cls: Any) -> str:
    """Spell the options in a message as they are typed: ``resume=True`` as ``--resume``.

    >>> from llm2bids.results.work import Work
    >>> as_typed("go on with resume=True, or lower `n_jobs`", Work)
    'go on with --resume, or lower --n-jobs'
    """
    flags = {part.name: flag_of(part) or part.name.upper() for part in declared_options(cls)}

    def with_value(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in flags:
            return match[0]
        return flags[name] if value in {"True", "False"} else f"{flags[name]} {value.strip(chr(34))}"

    def alone(match: re.Match[str]) -> str:
        return flags.get(match[1], match[0])

    message = re.sub(r'\b([a-z_]+)=(True|False|"[^"]*"|[\w.%-]*[\w%])', with_value, message)
    return re.sub(r"`([a-z_]+)`", alone, message)


def _argument(part: Field[Any], flag: str) -> dict[str, Any]:
    """What argparse has to know of an option."""
    known = part.metadata
    argument: dict[str, Any] = {"help": _help(part), "default": None if part.default is MISSING else part.default}
    if isinstance(part.default, bool):
        return argument | {"dest": part.name, "action": "store_false" if part.default else "store_true"}
    if choices := choices_of(part):
        argument["choices"] = choices
    elif parse := known["parse"] or _type(str(part.type)):
        argument["type"] = parse
    if known["metavar"] and not choices:
        argument["metavar"] = known["metavar"]
    if flag:
        argument |= {"dest": part.name, "required": part.default is MISSING}
    if known["many"]:
        argument["nargs"] = "+" if flag or part.default is MISSING else "*"
    elif not flag and part.default is not MISSING:
        argument["nargs"] = "?"
    return argument


def _help(part: Field[Any]) -> str:
    """Text of an option with its default; ``%`` is doubled, as argparse wants it."""
    text: str = part.metadata["text"].replace("%", "%%")
    default = part.default
    if default is MISSING or default is None or isinstance(default, bool) or default == ():
        return text
    value = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f"{text} ({value})".replace("%%%%", "%%") if "%" not in value else f"{text} ({value.replace('%', '%%')})"


def _type(annotation: str) -> type | None:
    """Type of a number, by its annotation."""
    return next((kind for kind in (int, float) if re.search(rf"\b{kind.__name__}\b", annotation)), None)
