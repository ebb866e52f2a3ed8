"""Folders know by which commands their files were made; a command typed again gives the same bytes."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llm2bids import __version__
from llm2bids.bids.history import (
    HISTORY,
    Step,
    command_line,
    note,
    noted,
    read_history,
    steps_of,
)
from llm2bids.cli import build_parser
from llm2bids.cli.terminal import options
from llm2bids.decomposition import ica
from llm2bids.errors import DatasetError
from llm2bids.lesioning import lesion_study
from llm2bids.masks import load_mask
from llm2bids.networks.depth_profile import profile
from llm2bids.networks.fingerprinting import fingerprint
from llm2bids.networks.functional_connectivity import connectivity
from llm2bids.networks.identification import identify
from llm2bids.networks.matching import match
from llm2bids.networks.repeatability import reliability
from llm2bids.networks.unit_overlap import overlap
from llm2bids.options import as_tuple, declared_options, option, takes
from llm2bids.options import options as options_class
from llm2bids.preparation import prep
from llm2bids.pruning import prune
from llm2bids.recording import record
from llm2bids.reporting import report
from llm2bids.statistics import glm
from llm2bids.validation import validate

TINY: dict[str, Any] = {"task": "pathology", "runs": 2, "blocks": 2, "prompts_per_block": 2, "tokens": 3}
VERBS = {
    "record": record,
    "prep": prep,
    "glm": glm,
    "ica": ica,
    "networks overlap": overlap,
    "networks reliability": reliability,
    "networks identify": identify,
    "networks profile": profile,
    "networks connectivity": connectivity,
    "networks match": match,
    "fingerprint": fingerprint,
    "lesion": lesion_study,
    "prune": prune,
    "report": report,
}
SHARED = {".bidsignore", "README.md", "dataset_description.json", "bids-validator-config.json", HISTORY, "lock"}
"""Files that belong to no single command."""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset with results of every kind, made in Python; do not write into it."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make(Path("ds"))
    return folder


def make(root: Path) -> None:
    """Everything quick that notes itself, in the current folder."""
    record(root, progress=False, **TINY)
    prep(root, fsl=True, progress=False)
    (found,) = glm(root, root / "derivatives" / "glm", top=[0.05], progress=False, n_jobs=1)
    ica(root, root / "derivatives" / "ica", components=2, progress=False)
    profile(root / "derivatives" / "glm", n_draws=10, progress=False)
    match(root / "derivatives" / "phantom", root / "derivatives" / "ica", n_draws=10, progress=False)
    Path("text.txt").write_text("an apple fell down and rolled away over the grass of the garden\n")
    lesion_study(
        root / "derivatives" / "lesion", masks=[found.top_files[0]], text="text.txt", controls=2, progress=False
    )


def files_in(root: Path) -> set[str]:
    """Files of a folder that one command each wrote; those of derivatives with a history of their own are not among them."""
    own = {path.parents[1] if path.parent.name == "code" else path.parent for path in root.rglob(HISTORY)} - {root}
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and path.name not in SHARED and not own & set(path.parents)
    }


def told_in(root: Path) -> set[str]:
    return {name for step in read_history(root) for name in step.outputs}


HOMES = ["", "derivatives/llm2bids", "derivatives/glm", "derivatives/ica", "derivatives/lesion"]
UNTOLD_FILES = {
    "": {"participants.tsv", "participants.json"},
    "derivatives/llm2bids": {"atlas-layers_description.json"},
}


@pytest.mark.parametrize("home", HOMES)
def test_every_file_has_a_command(chain: Path, home: str) -> None:
    root = chain / "ds" / home
    assert told_in(root) == files_in(root) - UNTOLD_FILES.get(home, set())


def test_commands_are_as_short_as_they_can_be(chain: Path) -> None:
    root = chain / "ds"
    told = [step.command for home in HOMES for step in read_history(root / home)]
    assert [command.removeprefix("llm2bids ") for command in told[:-1]] == [
        "record ds --task pathology --tokens 3 --runs 2 --blocks 2 --prompts-per-block 2",
        "prep ds --fsl",
        "glm ds ds/derivatives/glm participant --top 0.05",
        "networks profile ds/derivatives/glm --n-draws 10",
        "ica ds ds/derivatives/ica --components 2",
        "networks match ds/derivatives/phantom ds/derivatives/ica --n-draws 10",
    ]
    assert told[-1].startswith("llm2bids lesion ds/derivatives/lesion --mask ds/derivatives/glm/sub-phantom/func/sub-")
    assert told[-1].endswith(" --text text.txt --controls 2")


def test_the_validator_has_nothing_against_histories(chain: Path) -> None:
    assert [one.summary() for one in validate(chain / "ds") if one.issues] == []


def test_a_file_is_traced_from_anywhere_above_it(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(chain / "ds" / "derivatives")
    truth = next(Path("phantom").rglob("*_mask.nii.gz"))
    assert [step.command.split()[1] for step in steps_of(truth)] == ["record"]
    assert [step.command.split()[1] for step in steps_of("glm/sub-phantom.html")] == ["glm"]
    assert steps_of("glm/README.md") == []


def test_commands_typed_again_give_the_same_bytes(chain: Path, tmp_path: Path) -> None:
    """In a shell; of designs for FEAT, which have to hold absolute paths, all but these."""
    homes = [chain / "ds" / "derivatives" / name for name in ("llm2bids", "glm")]
    steps = [read_history(home)[0] for home in homes]
    shutil.copytree(chain / "ds", tmp_path / "ds")
    for home in homes:
        shutil.rmtree(tmp_path / home.relative_to(chain))
    program = f'llm2bids() {{ {shlex.quote(sys.executable)} -m llm2bids "$@"; }}'
    lines = [program, *(step.command for step in steps)]
    subprocess.run(["bash", "-ec", "\n".join(lines)], cwd=tmp_path, check=True, capture_output=True)
    for home, step in zip(homes, steps, strict=True):
        again = tmp_path / home.relative_to(chain)
        assert len(step.outputs) > 20
        for name in step.outputs:
            there = (again / name).read_bytes().replace(bytes(tmp_path.resolve()), bytes(chain.resolve()))
            assert there == (home / name).read_bytes(), name
        assert read_history(again) == [step]


def test_a_recording_typed_again_gives_the_same_bytes(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm2bids.cli import main

    monkeypatch.chdir(tmp_path)
    (step,) = read_history(chain / "ds")
    assert main(shlex.split(step.command)[1:]) == 0
    names = {*told_in(chain / "ds"), f"code/{HISTORY}"}
    assert {name: Path("ds", name).read_bytes() for name in names} == {
        name: (chain / "ds" / name).read_bytes() for name in names
    }


# ---- what is added


def test_the_same_command_is_one_step_with_all_its_files(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(chain / "ds", "ds")
    before = Path("ds/code", HISTORY).read_bytes()
    lost = next(Path("ds/sub-phantom/func").glob("*run-02_bold.nii.gz"))
    lost.unlink()
    record("ds", progress=False, resume=True, **TINY)
    assert Path("ds/code", HISTORY).read_bytes() == before
    record("ds", progress=False, subject="b", **TINY)
    first, second = read_history("ds")
    assert not {name for name in second.outputs if "sub-phantom" in name}
    assert "--subject b" in second.command
    assert steps_of(Path("ds/task-pathology_bold.json")) == [first, second]
    assert steps_of(next(Path("ds/sub-b/func").glob("*run-01_bold.nii.gz"))) == [second]


@pytest.mark.parametrize(
    ("home", "verb"),
    [("", "record"), ("derivatives/llm2bids", "prep"), ("derivatives/glm", "glm"), ("derivatives/ica", "ica")],
)
def test_what_was_broken_off_is_noted_by_the_command_that_goes_on(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str, verb: str
) -> None:
    from llm2bids.cli import main

    monkeypatch.chdir(tmp_path)
    shutil.copytree(chain / "ds", "ds")
    root = Path("ds", home)
    step = next(step for step in read_history(root) if step.command.split()[1] == verb)
    next(root.rglob(HISTORY)).unlink()  # all was written, nothing noted
    assert main([*shlex.split(step.command)[1:], "--resume"]) == 0
    assert read_history(root) == [step]


def test_who_wrote_a_file_last_is_last(tmp_path: Path) -> None:
    for command in ("a", "b", "a"):
        note(tmp_path, command, [tmp_path / "x" / "file"])
    assert read_history(tmp_path) == [Step(name, __version__, ("x/file",)) for name in ("b", "a")]


def test_another_version_is_another_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(tmp_path, "a", [tmp_path / "one"])
    monkeypatch.setattr("llm2bids.bids.history.__version__", "9.9")
    note(tmp_path, "a", [tmp_path / "two"])
    assert read_history(tmp_path) == [Step("a", __version__, ("one",)), Step("a", "9.9", ("two",))]


@options_class
class Writing:
    """What a verb writes, and where."""

    home: Path = option("folder", kw_only=False, place=True)
    files: int = option("how many files", default=0)


@dataclass
class Written:
    """One file."""

    files: list[Path]


def test_what_fails_and_what_wrote_nothing_is_not_noted(tmp_path: Path) -> None:
    @noted("verb")
    @takes(Writing)
    def verb(options: Writing) -> list[Written]:
        """Write."""
        if options.files < 0:
            raise DatasetError("fewer than none; ask for more")
        return [Written([options.home / str(number)]) for number in range(options.files)]

    with pytest.raises(DatasetError, match="fewer than none"):
        verb(tmp_path, files=-1)
    assert verb(tmp_path) == []
    assert [*tmp_path.iterdir()] == []
    assert verb(tmp_path, files=1) == [Written([tmp_path / "0"])]
    assert read_history(tmp_path) == [Step(f"llm2bids verb {tmp_path} --files 1", __version__, ("0",))]


def test_without_a_history_there_are_no_steps(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    assert steps_of(tmp_path / "sub-x" / "file") == []


@pytest.mark.parametrize(
    "text", ["nonsense\n", '{"command": "x"}\n', "[]\n", '{"command": "x", "version": "1", "outputs": 3}']
)
def test_a_damaged_history_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / HISTORY).write_text(text)
    with pytest.raises(DatasetError, match=f"{HISTORY} is no history .*remove it"):
        read_history(tmp_path)


# ---- commands


def test_what_lives_in_memory_is_named_by_its_type(chain: Path) -> None:
    mask = load_mask(next((chain / "ds").rglob("*_mask.nii.gz")))
    assert line_of("lesion", lesion_study, "out", masks={"net": mask}, model=object(), text="a b.txt") == (  # type: ignore[arg-type]
        "llm2bids lesion out --mask '<UnitMask>' --model '<object>' --text 'a b.txt'"
    )
    assert line_of("prune", prune, "phantom", mask, Path("small")) == (
        "llm2bids prune --model phantom --mask '<UnitMask>' --out small"
    )
    assert line_of("networks match", match, ["a.nii", "b.nii"], "set/*.nii") == (
        "llm2bids networks match '<a.nii b.nii>' 'set/*.nii'"
    )


def test_a_value_like_an_option_is_tied_to_its_own() -> None:
    line = line_of("glm", glm, "ds", "out", contrasts=["-off"], high_pass=1)
    assert line == "llm2bids glm ds out participant --contrasts=-off --high-pass 1"
    assert options(build_parser().parse_args(shlex.split(line)[1:]))["contrasts"] == ["-off"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_comes_back_from_the_command_line(verb: str) -> None:
    """Whatever is typed becomes a call, and that call the same command."""
    function = VERBS[verb]
    typed = [*verb.split(), *everything(parser_of(verb))]
    values = options(build_parser().parse_args(typed))
    line = line_of(verb, function, **values)
    again = options(build_parser().parse_args(shlex.split(line)[1:]))
    assert noted_values(function, values) == noted_values(function, again)
    assert len(noted_values(function, values)) > 1


def line_of(verb: str, function: Any, *args: Any, **kwargs: Any) -> str:
    """The command of a call."""
    return command_line(verb, unchecked(function.options, args, kwargs))


def unchecked(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Options that may contradict each other, as all of them together do."""
    made = object.__new__(cls)
    by_place = [part.name for part in declared_options(cls) if not part.kw_only]
    values = {**dict(zip(by_place, args, strict=False)), **kwargs}
    for part in declared_options(cls):
        value = values.get(part.name, part.default)
        object.__setattr__(made, part.name, as_tuple(value) if part.metadata["many"] else value)
    return made


def noted_values(function: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values that the history keeps."""
    left_out = {part.name for part in declared_options(function.options) if not part.metadata["noted"]}
    return {name: value for name, value in values.items() if name not in left_out}


def parser_of(verb: str) -> argparse.ArgumentParser:
    parser: Any = build_parser()
    for word in verb.split():
        (verbs,) = (one for one in actions_of(parser) if one.dest == "==SUPPRESS==")
        parser = verbs.choices[word]
    return parser


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions  # noqa: SLF001 - argparse has no other way to list them


def everything(parser: argparse.ArgumentParser) -> list[str]:
    """Every argument of a command, with another value than it has by default."""
    first, then = list[str](), list[str]()
    for action in actions_of(parser):
        if action.dest == "help":
            continue
        values = [] if action.nargs == 0 else [other_value(action)] * (2 if action.nargs == "+" else 1)
        if action.option_strings:
            then += [action.option_strings[0], *values]
        else:
            first += values
    return first + then


def other_value(action: argparse.Action) -> str:
    if action.choices:
        return next(str(choice) for choice in action.choices if choice != action.default)
    return {"int": "7", "float": "0.25", "read_share": "0.25", "read_components": "7", "processes": "7"}.get(
        getattr(action.type, "__name__", ""), "it's $new"
    )


def test_lines_are_in_order_and_say_no_more_than_steps(chain: Path) -> None:
    lines = (chain / "ds" / "code" / HISTORY).read_text().splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"command", "version", "outputs"}]
    assert all(list(step.outputs) == sorted(set(step.outputs)) for step in read_history(chain / "ds"))
