"""Options are written once: Python, the command line, the history and messages say the same."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from llm2bids.bids.history import command_line, noted, read_history
from llm2bids.cli.arguments import add_options, as_typed, values_of
from llm2bids.errors import OptionError
from llm2bids.options import as_tuple, bind, option, options, takes


@options
class Counting:
    """How often."""

    times: int = option("how many times", default=3, metavar="N", group="work", sidecar="Times")
    loud: bool = option("say it loud", default=False, group="work", noted=False)
    quiet: bool = option("say it at all", default=True, group="work")

    def check(self) -> None:
        if self.times < 1:
            raise ValueError(f"times={self.times} found; 1 or more needed")


@options
class Greeting(Counting):
    """Whom."""

    home: Path = option("folder", kw_only=False, place=True, metavar="DIR")
    names: Sequence[str] = option("whom to greet", default=("you",), metavar="NAME")
    tone: Literal["warm", "cold"] = option("how to greet, 10 % of the time", default="warm")
    output: Path | None = option("where to", default=None, kw_only=False, flag="--to")

    def check(self) -> None:
        if "nobody" in self.names:
            raise ValueError("nobody found")


@dataclass
class Greeted:
    """A result that knows its files."""

    files: list[Path] = field(default_factory=list)
    skipped: bool = False


@noted("greet")
@takes(Greeting)
def greet(options: Greeting) -> list[Greeted]:
    """Greet.

    Returns
    -------
    list of Greeted
        One per name.
    """
    results = []
    for name in options.names:
        path = options.home / f"{name}.txt"
        path.write_text("hello " * options.times)
        results.append(Greeted([path]))
    return results


def parsed(*words: str) -> Greeting:
    parser = argparse.ArgumentParser()
    add_options(parser, Greeting)
    return bind(Greeting, "greet", (), values_of(parser.parse_args(words)))


def test_one_value_is_a_list_of_one() -> None:
    assert Greeting(home=Path(), names="Ada").names == ("Ada",)
    assert Greeting(home=Path(), names=["Ada", "Bob"]).names == ("Ada", "Bob")
    assert as_tuple({"a": 1}) == {"a": 1}
    assert as_tuple(None) is None


def test_python_and_the_command_line_make_the_same_options() -> None:
    words = ["there", "--names", "Ada", "Bob", "--times", "2", "--no-quiet", "--loud", "--to", "out", "--tone", "cold"]
    by_words = parsed(*words)
    assert (by_words.times, by_words.quiet, by_words.loud, by_words.names) == (2, False, True, ("Ada", "Bob"))
    assert str(by_words.home) == "there"
    assert str(by_words.output) == "out"
    assert parsed("there").names == ("you",)


def test_the_history_says_what_was_typed() -> None:
    words = ["there", "--names", "Ada", "--tone", "cold", "--to", "out", "--times", "2", "--no-quiet"]
    assert command_line("greet", parsed(*words)).split() == ["llm2bids", "greet", *words]
    assert command_line("greet", parsed("there", "--loud")) == "llm2bids greet there"


def test_the_function_has_signature_and_parameters_of_its_options() -> None:
    signature = inspect.signature(greet)
    assert list(signature.parameters) == ["home", "output", "names", "tone", "times", "loud", "quiet"]
    assert signature.parameters["times"].default == 3
    assert signature.parameters["names"].kind is inspect.Parameter.KEYWORD_ONLY
    text = greet.__doc__ or ""
    assert text.index("Parameters") < text.index('tone : {"warm", "cold"}') < text.index("Returns")
    assert "output : Path, optional\n    Where to." in text


def test_calls_are_noted_with_the_files_they_wrote(tmp_path: Path) -> None:
    greet(tmp_path, names="Ada")
    (step,) = read_history(tmp_path)
    assert step.outputs == ("Ada.txt",)
    assert step.command == f"llm2bids greet {tmp_path} --names Ada"


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ({"nmes": "Ada"}, "did you mean names"),
        ({"home": Path()}, "'home' twice"),
    ],
)
def test_wrong_calls_are_type_errors(tmp_path: Path, call: dict[str, object], what: str) -> None:
    with pytest.raises(TypeError, match=what):
        greet(tmp_path, **call)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="2 arguments by place, 3 found"):
        greet(tmp_path, None, "Ada")  # type: ignore[call-arg, misc]


def test_checks_of_all_parts_run() -> None:
    with pytest.raises(ValueError, match="times=0"):
        Greeting(home=Path(), times=0)
    with pytest.raises(ValueError, match="nobody"):
        Greeting(home=Path(), names="nobody")


def test_values_are_held_against_the_choices() -> None:
    with pytest.raises(OptionError, match="tone 'worm' found; did you mean warm"):
        Greeting(home=Path(), tone="worm")  # type: ignore[arg-type]


def test_messages_are_spelled_as_who_called_would_type() -> None:
    message = 'use tone="cold", loud=True or quiet=False, lower `times`, or times=5, but other=True stays'
    assert as_typed(message, Greeting) == (
        "use --tone cold, --loud or --no-quiet, lower --times, or --times 5, but other=True stays"
    )


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="greet")
    add_options(parser, Greeting)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = capsys.readouterr().out
    assert "whom to greet (you)" in shown
    assert "10 % of the time (warm)" in shown
    assert "how many times (3)" in shown
