"""Text → call, error → exit code. Each verb has a module here; the work's own module is imported when asked for."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from llm2bids import __version__
from llm2bids.cli import demo, fingerprint, glm, ica, lesion, mask, networks, prep, prune, record, tasks, validate
from llm2bids.errors import LLM2BIDSError

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

exit codes: 0 done, 1 the answer is no (the validator found errors), 2 something you can mend: one line says how
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


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
    parser = _parser()
    args = parser.parse_args(argv)
    if "verb" not in args:
        parser.print_help()
        return 0
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        return int(args.verb(args))
    except LLM2BIDSError as error:
        sys.stderr.write(f"llm2bids: {error}\n")
        return 2
    except BrokenPipeError:  # who reads our output has seen enough, as head has; the work is done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("llm2bids: interrupted; complete runs are safe, go on with --resume\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="llm2bids",
        description="Put a language model in the scanner: record its units as a BIDS dataset for the tools of fMRI.",
        epilog=_START,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llm2bids {__version__}")
    verbs: argparse._SubParsersAction[argparse.ArgumentParser]
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    order = (demo, record, tasks, validate, prep, glm, ica, networks, fingerprint, mask, lesion, prune)  # of the help
    for verb in order:
        verb.add(verbs)
    return parser
