"""Text → call, error → exit code. Each verb has a module here; the work's own module is imported when asked for."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from llm2bids.cli import (
    completion,
    demo,
    doctor,
    fetch,
    fingerprint,
    glm,
    ica,
    lesion,
    mask,
    networks,
    prep,
    prune,
    record,
    report,
    tasks,
    validate,
)
from llm2bids.cli.arguments import as_typed
from llm2bids.errors import LLM2BIDSError, did_you_mean
from llm2bids.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

_START = """\
examples:
  llm2bids demo                                   the whole chain on the built-in phantom, in a minute
  llm2bids tasks                                  what a model can be shown
  llm2bids record ds --model phantom --task nencka2023
  llm2bids record ds --model ./my-model --task mytask.tsv --mode read --sites block mlp
  llm2bids validate ds
  llm2bids prep ds
  llm2bids glm ds ds/derivatives/glm participant
  llm2bids networks identify ds/derivatives/glm   which task was it?
  llm2bids mask show MASK                         which units, layer by layer
  llm2bids fetch smollm2                          a small pretrained model, for --model smollm2
  llm2bids doctor                                 is everything here that is needed
  eval "$(llm2bids completion bash)"              completes all of this in your shell

exit codes: 0 done, 1 the answer is no (the validator found errors), 2 something you can mend: one line says how
"""
_WAY = """\
llm2bids puts a language model in the scanner: its units as a BIDS dataset.

See it work first, on a built-in phantom whose networks are known:
  llm2bids demo                        the whole chain, in a minute

A first session of your own:
  llm2bids record ds --model ./my-model --task nencka2023 --sites mlp
  llm2bids validate ds                 by the official BIDS validator
  llm2bids prep ds                     for every fMRI program
  llm2bids glm ds ds/derivatives/glm participant
                                       which units answer to which task
  llm2bids networks overlap ds/derivatives/glm
                                       what the networks of tasks share
  llm2bids ica ds ds/derivatives/ica   networks without a task
  llm2bids lesion lesions --model ./my-model --text my.txt --mask MASK
                                       what the model cannot do without one
  llm2bids report ds                   all of it as pages for your browser

Where help is:
  llm2bids --help                      all commands
  llm2bids record --help               all options of one
  llm2bids tasks                       what a model can be shown
  llm2bids doctor                      is everything here that is needed
  llm2bids completion --help           commands completed by your shell
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and what was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse unknown words in the parser of the command, which knows the options that are near."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = next((word for word in unknown if word.startswith("-")), "")
            near = did_you_mean(option.partition("=")[0], self._option_string_actions)
            self.error("; ".join(filter(None, (f"{' '.join(unknown)} not known", near.rstrip()))))
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is no choice."""
        if action.choices is not None and value not in action.choices:
            known = [*map(str, action.choices)]
            near = did_you_mean(str(value), known)
            raise argparse.ArgumentError(action, f"{value!r} not found; {near}there are {', '.join(known)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit code: 0 done, 1 the answer is no, 2 something the user can mend.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if "verb" not in args:
        sys.stdout.write(_WAY)
        return 0
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    warnings = logging.StreamHandler()
    warnings.setFormatter(_AsTyped(args))
    logging.getLogger("llm2bids").handlers = [warnings]
    try:
        return int(args.verb(args))
    except LLM2BIDSError as error:
        sys.stderr.write(f"llm2bids: {_spelled(str(error), args)}\n")
        return 2
    except BrokenPipeError:  # who reads our output has seen enough, as head has; the work is done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("llm2bids: interrupted; complete runs are safe, go on with --resume\n")
        return 130


class _AsTyped(logging.Formatter):
    """Warnings in the spelling of the command line."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.args = args

    def format(self, record: logging.LogRecord) -> str:
        """Spell options as they are typed."""
        return _spelled(super().format(record), self.args)


def _spelled(message: str, args: argparse.Namespace) -> str:
    """A message with the options of the verb as they are typed."""
    return as_typed(message, args.options) if "options" in args else message


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command line.

    Returns all verbs with their options, which the documentation reads too.
    """
    parser = _Parser(
        prog="llm2bids",
        description="Put a language model in the scanner: record its units as a BIDS dataset for the tools of fMRI.",
        epilog=_START,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llm2bids {__version__}")
    verbs: argparse._SubParsersAction[argparse.ArgumentParser]
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    order = (
        demo,
        record,
        tasks,
        validate,
        prep,
        glm,
        ica,
        networks,
        fingerprint,
        mask,
        lesion,
        prune,
        report,
        fetch,
        doctor,
        completion,
    )
    for verb in order:
        verb.add(verbs)
    verbs.choices["completion"].set_defaults(parser=parser)  # it completes all of this
    return parser
