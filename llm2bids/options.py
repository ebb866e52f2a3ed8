"""Options of a verb, written once: fields of a dataclass.

The signature and the docstring of the Python function, the command line, the line in the history and the fields of
sidecars all derive from them.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import wraps
from inspect import Parameter, Signature, cleandoc, get_annotations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, dataclass_transform

from llm2bids.errors import OptionError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from dataclasses import Field

Arguments = ParamSpec("Arguments")
Options = TypeVar("Options")
Result = TypeVar("Result")


def option(  # noqa: PLR0913 - what there is to say of an option
    text: str,
    *,
    default: Any = MISSING,
    kw_only: bool = True,
    place: bool = False,
    many: bool | None = None,
    flag: str | None = None,
    metavar: str | None = None,
    choices: Sequence[str] = (),
    parse: Callable[[str], Any] | None = None,
    group: str = "",
    sidecar: str = "",
    noted: bool = True,
    typed: bool = True,
) -> Any:
    """Declare one option of a verb: a field of a dataclass made by `options`.

    `text` says what it is, for the command line and for Python alike. `place`: the command line takes it by place, not
    by flag. `many`: it is a list, so that a single value is taken as a list of one; by default if `default` is a tuple.
    `parse` makes a value of what was typed. `sidecar`: its key in sidecars. `noted`: it is part of the command in the
    history. `typed`: it is an option of the command line too.
    """
    metadata = {
        "text": text,
        "place": place,
        "many": isinstance(default, tuple) if many is None else many,
        "flag": flag,
        "metavar": metavar,
        "choices": tuple(choices),
        "parse": parse,
        "group": group,
        "sidecar": sidecar,
        "noted": noted,
        "typed": typed,
    }
    return field(default=default, kw_only=kw_only, metadata=metadata)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option,))
def options(cls: type[Options]) -> type[Options]:
    """Make a class a frozen dataclass of options; classes of options are put together by inheritance.

    A class may have a method ``check`` that raises if its options contradict each other. All of them run, those of the
    bases first. Values are checked against the choices that are declared. A single value is taken wherever a list is
    meant.
    """
    checks = [base.__dict__["check"] for base in reversed(cls.__mro__) if "check" in base.__dict__]

    def complete(self: Any) -> None:
        for part in declared_options(self):
            if part.metadata["many"]:
                object.__setattr__(self, part.name, as_tuple(getattr(self, part.name)))
            check_choice(part, getattr(self, part.name))
        for check in checks:
            check(self)

    cls.__post_init__ = complete  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


def takes(cls: Callable[Arguments, Options]) -> Callable[[Callable[[Options], Result]], Callable[Arguments, Result]]:
    """Let a function that takes an object of options be called with the options themselves.

    `cls` is a class made by `options`. The function gets the signature of the class, and a section ``Parameters`` in
    its docstring.
    """
    settings: Any = cls

    def decorate(function: Callable[[Options], Result]) -> Callable[Arguments, Result]:
        @wraps(function)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            return function(bind(settings, function.__name__, args, kwargs))

        returned = function.__annotations__.get("return", Signature.empty)
        call.__signature__ = Signature(_parameters(settings), return_annotation=returned)  # type: ignore[attr-defined]
        call.__doc__ = _with_parameters(function.__doc__ or "", settings)
        call.options = settings  # type: ignore[attr-defined]
        return call

    return decorate


def bind(cls: type[Options], name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Options:
    """Make the object of options of a call of the function `name`."""
    if len(args) == 1 and isinstance(args[0], cls):
        return args[0]
    declared = {part.name: part for part in fields(cls)}  # type: ignore[arg-type]
    by_place = [part.name for part in declared.values() if not part.kw_only]
    if len(args) > len(by_place):
        raise TypeError(f"{name}() takes {len(by_place)} arguments by place, {len(args)} found; name the others")
    values = dict(zip(by_place, args, strict=False))
    for key, value in kwargs.items():
        if key not in declared:
            raise TypeError(f"{name}() has no option {key!r}; {did_you_mean(key, declared)}see help({name})")
        if key in values:
            raise TypeError(f"{name}() got {key!r} twice")
        values[key] = value
    return cls(**values)


def as_tuple(value: Any) -> Any:
    """Make a list of what may be a single value; None and mappings stay.

    >>> as_tuple("Ada Lovelace"), as_tuple(["block", "mlp"]), as_tuple(0.01)
    (('Ada Lovelace',), ('block', 'mlp'), (0.01,))
    """
    if value is None or isinstance(value, Mapping):
        return value
    single = isinstance(value, str | Path) or not isinstance(value, Iterable)
    return (value,) if single else tuple(value)


def check_choice(part: Field[Any], value: Any) -> None:
    """Raise if an option has none of the values that were declared for it."""
    choices = choices_of(part)
    for item in value if isinstance(value, tuple) else (value,):
        if choices and item is not None and item not in choices:
            near = did_you_mean(str(item), choices)
            raise OptionError(f"{part.name} {item!r} found; {near}use {', '.join(choices)}")


def sidecar_fields(settings: Any, **after: Mapping[str, Any]) -> dict[str, Any]:
    """Describe options for a sidecar: values by the key that each declares; `after` a key, further fields."""
    described: dict[str, Any] = {}
    for part in declared_options(settings):
        if key := part.metadata["sidecar"]:
            value = getattr(settings, part.name)
            described |= {key: list(value) if isinstance(value, tuple) else value, **after.get(key, {})}
    return described


def declared_options(cls: Any) -> list[Field[Any]]:
    """List the options of a class: its own first, then those of its bases."""
    declared = {part.name: part for part in fields(cls) if "text" in part.metadata}
    bases = (cls if isinstance(cls, type) else type(cls)).__mro__
    names = [name for base in bases for name in get_annotations(base)]
    return [declared[name] for name in dict.fromkeys(names) if name in declared]


def flag_of(part: Field[Any]) -> str:
    """Give the flag of an option on the command line; empty where it is typed by place."""
    if part.metadata["place"]:
        return ""
    negated = "no-" if part.default is True else ""
    return part.metadata["flag"] or f"--{negated}{part.name.replace('_', '-')}"


def choices_of(part: Field[Any]) -> tuple[str, ...]:
    """Give the values that an option may take; empty where any will do."""
    literal = re.search(r"Literal(\[.*?\])", str(part.type))
    return part.metadata["choices"] or (tuple(literal_eval(literal[1])) if literal else ())


def _parameters(cls: Any) -> list[Parameter]:
    """Signature of a class of options: those taken by place first."""
    kinds = {False: Parameter.POSITIONAL_OR_KEYWORD, True: Parameter.KEYWORD_ONLY}
    parameters = [
        Parameter(
            part.name,
            kinds[bool(part.kw_only)],
            default=Parameter.empty if part.default is MISSING else part.default,
            annotation=part.type,
        )
        for part in declared_options(cls)
    ]
    return sorted(parameters, key=lambda parameter: parameter.kind)


def _with_parameters(doc: str, cls: Any) -> str:
    """The docstring with a section ``Parameters`` before its first other section."""
    parts = sorted(declared_options(cls), key=lambda part: bool(part.kw_only))
    entries = [f"{part.name} : {_type_text(part)}\n    {_sentence(part.metadata['text'])}" for part in parts]
    section = "\n".join(["Parameters", "----------", *entries])
    lead, *rest = re.split(r"\n\n(?=[A-Z][a-z]+\n---)", cleandoc(doc), maxsplit=1)
    return "\n\n".join([lead, section, *rest]) + "\n"


def _sentence(text: str) -> str:
    """Text of an option as a sentence."""
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _type_text(part: Field[Any]) -> str:
    """Type of an option as numpydoc writes it."""
    choices = choices_of(part)
    if choices:
        text = "{" + ", ".join(f'"{choice}"' for choice in choices) + "}"
    else:
        text = str(part.type).replace("str | Path", "path-like").removesuffix(" | None")
        text = re.sub(r"(?:Sequence|tuple)\[(.*?)(?:, \.\.\.)?\]", r"sequence of \1", text).replace(" | ", " or ")
    if part.metadata["many"] and "sequence" not in text:
        text += " or sequence of these"
    return text if part.default is MISSING or part.default is not None else f"{text}, optional"
