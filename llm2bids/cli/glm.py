"""``llm2bids glm``: the options of an analysis, and the list of what was found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.terminal import add_labels, add_work, format_table, options, tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids glm``."""
    verb = verbs.add_parser(
        "glm",
        help="find the units that answer to a task",
        description="Linear models by nilearn: effects, tests and networks of each subject, task and site, or over "
        "subjects.",
    )
    verb.add_argument("bids_dir", metavar="BIDS_DIR", help="a raw dataset that prep has prepared")
    verb.add_argument(
        "out_dir", metavar="OUT_DIR", help="derivative to make or to add to, e.g. BIDS_DIR/derivatives/glm"
    )
    verb.add_argument("analysis_level", choices=["participant", "group"], help="each subject, or over subjects")
    add_labels(verb)
    what = verb.add_argument_group("what is asked")
    what.add_argument("--model", metavar="FILE", help="BIDS Stats Model (BIDS_DIR/code/models/model-<task>_smdl.json)")
    what.add_argument(
        "--contrasts",
        nargs="+",
        default=[],
        metavar="EXPR",
        help="instead of the model's, e.g. 'on - off', 'name=on - off'",
    )
    what.add_argument(
        "--drop-missing",
        action="store_true",
        help="leave out runs that lack a condition, or subjects that lack a contrast, instead of an error",
    )
    _add_estimate_options(verb.add_argument_group("how it is estimated"))
    _add_test_options(verb.add_argument_group("how it is tested"))
    group = verb.add_argument_group("over subjects")
    group.add_argument("--compare", metavar="COLUMN", help="column of participants.tsv with two values to compare")
    group.add_argument("--pairs", metavar="COLUMN", help="with --compare: who belongs together")
    group.add_argument("--covariates", nargs="+", default=[], metavar="COLUMN", help="columns with numbers, centred")
    add_work(verb)
    verb.set_defaults(verb=_run)


def _add_estimate_options(estimate: argparse._ArgumentGroup) -> None:
    """How effects are estimated."""
    estimate.add_argument(
        "--inference",
        choices=["prompt", "run", "token"],
        default="prompt",
        help="what is a sample (%(default)s); tokens are not independent, so token finds too much",
    )
    estimate.add_argument(
        "--level",
        choices=["prompt", "prompt-mean"],
        default="prompt",
        help="effect of a prompt by AR(1) over its tokens, or their mean (%(default)s)",
    )
    estimate.add_argument(
        "--drift", choices=["cosine", "none"], default="cosine", help="slow drift to remove (%(default)s)"
    )
    estimate.add_argument("--high-pass", type=float, metavar="HZ", help="its cutoff (fitted to the design)")
    estimate.add_argument(
        "--confounds",
        nargs="+",
        default=[],
        metavar="NAME",
        help="columns of confounds, or wildcards such as 'cosine*'",
    )


def _add_test_options(test: argparse._ArgumentGroup) -> None:
    """How effects are tested."""
    test.add_argument(
        "--correction",
        choices=["fdr", "bonferroni", "maxt", "none"],
        default="fdr",
        help="for many units (%(default)s)",
    )
    test.add_argument("--alpha", type=float, default=0.05, metavar="P", help="level (%(default)s)")
    test.add_argument(
        "--tail", choices=["two", "positive", "negative"], default="two", help="which effects count (%(default)s)"
    )
    test.add_argument("--n-permutations", type=int, default=1000, metavar="N", help="of maxt (%(default)s)")
    test.add_argument("--seed", type=int, default=0, metavar="N", help="of maxt (%(default)s)")
    test.add_argument(
        "--top",
        nargs="+",
        type=share,
        default=[],
        metavar="SHARE",
        help="write masks of the largest statistics too, e.g. 1%% of the units tested; no test",
    )
    test.add_argument(
        "--smoothing-fwhm", type=float, metavar="MM", help="refused: neighbouring voxels are no neighbours"
    )
    test.add_argument("--cluster-threshold", type=int, metavar="K", help="refused for the same reason")


def share(text: str) -> float:
    """A share of units.

    Returns the share; `llm2bids.statistics.glm` says which may be asked for.

    >>> share("1%"), share("0.5 %"), share("0.01")
    (0.01, 0.005, 0.01)
    """
    number = text.strip()
    return float(number.removesuffix("%")) / 100 if number.endswith("%") else float(number)


def _run(args: argparse.Namespace) -> int:
    """Analyse, and tell what was found."""
    from llm2bids.statistics import glm  # noqa: PLC0415 - takes seconds to import

    findings = glm(**options(args))
    if args.json:
        from dataclasses import asdict  # noqa: PLC0415

        tell(json.dumps([asdict(one) for one in findings], indent=2, default=str))
        return 0
    rows = [
        {
            "subject": one.subject,
            "task": one.task,
            "site": one.site,
            "contrast": one.contrast,
            "tested": one.n_tested,
            "found": one.n_selected,
            "from |z|": "-" if one.threshold is None else f"{one.threshold:.2f}",
            "state": "was there" if one.skipped else "written",
        }
        for one in findings
    ]
    tell(format_table(rows), "", f"Maps, networks and a page per subject are in {args.out_dir}.")
    if args.analysis_level == "participant" and args.inference == "token":
        tell("Tokens are not independent samples: these are too many. For claims use --inference prompt.")
    return 0
