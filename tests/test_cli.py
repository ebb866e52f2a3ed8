"""The command line: quick help, results for people and programs, one line and no trace for what a user can mend."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from llm2bids import __version__
from llm2bids.bids.history import HISTORY
from llm2bids.cli import build_parser, main
from llm2bids.errors import LLM2BIDSError
from llm2bids.task import builtin_tasks

from .families import tiny_subject

if TYPE_CHECKING:
    from llm2bids.recording import Recording

TINY = ["--runs", "1", "--blocks", "1", "--prompts-per-block", "1", "--tokens", "2"]
PATHOLOGY = ["--task", "pathology", *TINY]
HEAD = "text\ttrial_type\n"
INPUTS = {
    "bad.tsv": HEAD + "a\ton\nb\n",
    "blank.yaml": "trials: [{text: '   ', trial_type: on}]",
    "unspoken.tsv": HEAD + "</s>\ton\n",
    "long.tsv": HEAD + "a " * 2100 + "\ton\n",
    "spoken.tsv": HEAD + "a model\ton\nafter another word\toff\n",
    "else/pathology.tsv": HEAD + "a\ton\nb\toff\n",
    "noconfig/README.md": "no model",
    "pickled/config.json": '{"model_type": "gpt2"}',
    "pickled/pytorch_model.bin": "never loaded",
    "file": "no folder",
    "full/notes.txt": "no dataset",
    "derivative/dataset_description.json": '{"Name": "x", "DatasetType": "derivative"}',
    "torn/dataset_description.json": '{"Name": ',
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny gpt2, a tiny bert, and a gpt2 whose weights end too early."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("gpt2", "bert"):
        subject = tiny_subject(family)
        subject.model.save_pretrained(folder / family)
        subject.tokenizer.save_pretrained(folder / family)
    shutil.copytree(folder / "gpt2", folder / "cut")
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom as sub-a, two runs of pathology; do not write into it."""
    root = tmp_path_factory.mktemp("recorded") / "ds"
    assert main(["record", str(root), *PATHOLOGY, "--runs", "2", "--subject", "a"]) == 0
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with bad inputs of many kinds."""
    monkeypatch.chdir(tmp_path)
    for name, content in INPUTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


@pytest.fixture
def used(here: Path, recorded: Path) -> Path:
    """The same with a copy of the recorded dataset as `ds`."""
    shutil.copytree(recorded, here / "ds")
    return here


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder, and its folders."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def recordings(folder: Path) -> dict[str, str]:
    """The same without the history of commands, which grows."""
    return {name: told for name, told in contents(folder).items() if Path(name).name != HISTORY}


def run(*args: str) -> int:
    try:
        return main(args)
    except SystemExit as stop:
        return int(stop.code or 0)


def one_line(text: str) -> str:
    """The only line of a message of ours."""
    assert text.startswith("llm2bids")
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    return text


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What the command says, having written nothing."""
    before = contents(folder)
    capsys.readouterr()
    assert run(*args) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert contents(folder) == before
    return one_line(told.err)


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False)


# Help and lists


@pytest.mark.parametrize("args", [["--help"], ["record", "--help"], ["doctor", "--help"], ["--version"], []])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    script = f"""
import sys
from llm2bids.cli import main
try:
    main({args})
except SystemExit:
    pass
heavy = {{"torch", "nilearn", "transformers", "pandas", "numpy", "bids"}} & set(sys.modules)
sys.exit(" ".join(heavy) or 0)
"""
    done = python("-c", script)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_completion_imports_no_model_and_no_statistics() -> None:
    script = """
import sys
from llm2bids.cli import main
main(["completion", "bash"])
sys.exit(" ".join({"torch", "nilearn", "transformers"} & set(sys.modules)) or 0)
"""
    done = python("-c", script)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_arguments_the_way_of_a_first_session_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    typed = [line.strip().partition("   ")[0] for line in lines if line.startswith("  llm2bids ")]
    order = ["demo", "record", "validate", "prep", "glm", "networks", "ica", "lesion", "report"]
    assert [line.split()[1] for line in typed][: len(order)] == order
    for line in typed:
        words = shlex.split(line)[1:]
        assert "--help" in words or build_parser().parse_args(words).verb


def test_the_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("demo", "record", "tasks", "validate", "doctor", "completion", "exit codes"))


# Completion


COMPLETED = {
    "rec": "record",
    "networks re": "reliability",
    "record new": "newfolder",
    "record ds --task pat": "pathology",
    "record ds --task new": "newfile.tsv newfolder",
    "record ds --sites ne": "neuron",
    "record ds --mode r": "read",
    "record ds --no-c": "--no-compress",
    "glm ds out part": "participant",
    "glm ds out participant --task-label arch": "archeology",
    "lesion out --mask newfi": "newfile.tsv",
}


def test_bash_completes_what_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "newfolder").mkdir()
    (tmp_path / "newfile.tsv").touch()
    assert run("completion", "bash") == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    ask = 'COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=(); "$function"; echo "${{COMPREPLY[@]}}"'
    find = 'function=$(complete -p llm2bids | sed "s/.*-F \\([^ ]*\\).*/\\1/")'
    lines = ["source completion.bash", find, *(ask.format(words=f"llm2bids {typed}") for typed in COMPLETED)]
    done = subprocess.run(["bash", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert dict(zip(COMPLETED, (" ".join(sorted(line.split())) for line in done.stdout.splitlines()), strict=True)) == (
        COMPLETED
    )


@pytest.mark.parametrize("shell", ["zsh", "tcsh", "fish"])
def test_other_shells_are_told_of_every_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("completion", shell) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in ("fingerprint", "reliability", "neuron", "theoryofmind"))


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"llm2bids {__version__}\n"


def test_the_help_of_record_tells_every_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("record", "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for told in (
        "(phantom)",
        "(nencka2023)",
        "(block)",
        "(generate; read",
        "(24)",
        "(5)",
        "(3)",
        "(0)",
        "(8)",
        "(auto)",
    ):
        assert told in shown


def test_tasks_are_listed_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tasks") == 0
    lines = capsys.readouterr().out.splitlines()
    assert run("tasks", "--json") == 0
    listed = {row["task"]: row["description"] for row in json.loads(capsys.readouterr().out)}
    assert listed == builtin_tasks()
    assert [line.split()[0] for line in lines] == ["task", *listed]
    assert len({line.index(told) for line, told in zip(lines[1:], listed.values(), strict=True)}) == 1


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        (["recordd"], "'recordd'"),
        (["--nope"], "--nope"),
        (["record", "ds", "--nope"], "--nope"),
        (["record"], "BIDS_DIR"),
        (["record", "ds", "--tokens", "many"], "'many'"),
        (["record", "ds", "--mode", "dream"], "'dream'"),
        (["record", "ds", "--nonfinite", "ignore"], "'ignore'"),
        (["validate"], "DIR"),
        (["rekord"], "did you mean record? there are demo, record,"),
        (["xyz"], "'xyz' not found; there are demo,"),
        (["networks", "overlop", "x"], "did you mean overlap? there are overlap, reliability"),
        (["record", "ds", "--mode", "reed"], "'reed' not found; did you mean read? there are generate, read"),
        (["record", "ds", "--tokns", "5"], "llm2bids record: --tokns 5 not known; did you mean --tokens?; see"),
        (["--versoin"], "did you mean --version?"),
        (["record", "ds", "--xyz"], "--xyz not known; see"),
    ],
)
def test_a_wrong_command_is_refused_by_name(
    here: Path, capsys: pytest.CaptureFixture[str], args: list[str], wrong: str
) -> None:
    assert wrong in refused(here, capsys, *args)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (LLM2BIDSError("not so; do this"), 2)])
def test_what_a_user_causes_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    monkeypatch.setattr("llm2bids.task.builtin_tasks", Mock(side_effect=error))
    assert run("tasks") == code
    one_line(capsys.readouterr().err)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm2bids.task.builtin_tasks", Mock(side_effect=ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        run("tasks")


# What record prints


def test_record_lists_what_it_wrote(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("record", "ds", *PATHOLOGY, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (here / row["file"]).is_file()
    assert (row["scans"], row["units"], row["state"]) == (3 * 2, 6 * 128, "written")


def test_resume_leaves_complete_runs_alone_and_adds_the_others(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = recordings(used)
    assert run("record", "ds", *PATHOLOGY, "--runs", "3", "--subject", "a", "--resume", "--json") == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["was there", "was there", "written"]
    assert before.items() <= recordings(used).items()


def test_another_site_leaves_what_is_there_alone(used: Path) -> None:
    before = recordings(used)
    assert run("record", "ds", *PATHOLOGY, "--subject", "a", "--sites", "attn") == 0
    assert before.items() <= recordings(used).items()


# What record refuses, with nothing written

NEW: dict[str, tuple[list[str], str]] = {
    "model nowhere": (["--model", "./nope/model"], "'./nope/model'"),
    "model without config": (["--model", "noconfig"], "noconfig holds no config.json"),
    "pickled weights": (["--model", "pickled"], "pytorch_model.bin"),
    "unknown task": (["--task", "astrology"], "'astrology'"),
    "task misspelt": (["--task", "patholgy"], "'patholgy' not found; did you mean pathology[?] there are nencka2023"),
    "site misspelt": (["--sites", "neuronn"], "'neuronn' not found; did you mean neuron[?] there are block"),
    "module misspelt": (["--hookpoints", "model.layer.0"], r"did you mean model\.layers\.0[?]"),
    "one task of two unknown": (["--task", "pathology", "astrology"], "'astrology'"),
    "unknown task file": (["--task", "nope.tsv"], "nope.tsv"),
    "two files of one name": (["--task", "pathology", "else/pathology.tsv"], "pathology"),
    "hyphen in the label": (["--subject", "gpt2-small"], "'gpt2-small'.*'gpt2small'"),
    "underscore in the label": (["--subject", "gpt2_small"], "'gpt2_small'.*'gpt2small'"),
    "empty label": (["--subject", ""], "''"),
    "bad line": (["--task", "bad.tsv"], r"bad\.tsv, line 3, column"),
    "blank prompt": (["--task", "blank.yaml"], r"blank\.yaml, line 1, column \d+ \(text\)"),
    "prompt without tokens": (["--task", "unspoken.tsv"], "'</s>' is empty"),
    "prompt longer than the context": (["--task", "long.tsv"], "2101 tokens.*2048"),
    "prompt too long to read": (["--task", "long.tsv", "--mode", "read"], "2101 tokens.*2048"),
    "no runs": (["--runs", "0"], "0 runs"),
    "no sessions": (["--sessions", "0"], "0 sessions"),
    "no tokens": (["--tokens", "0"], "0 tokens"),
    "no blocks": (["--blocks", "0"], "0 blocks"),
    "no prompts": (["--prompts-per-block", "0"], "0 prompts per block"),
    "too many runs": (["--runs", "61"], "60 on prompts.*61 needed.*--reuse-prompts"),
    "negative batch": (["--batch-size", "-1"], "batch size of -1"),
    "negative seed": (["--seed", "-1"], "seed -1"),
    "negative temperature": (["--temperature", "-0.5"], "temperature of -0.5"),
    "temperature is no number": (["--temperature", "nan"], "temperature of nan"),
    "top-p above 1": (["--top-p", "1.5"], "top-p of 1.5"),
    "unknown site": (["--sites", "block", "brain"], "'brain'.*block, attn, mlp, neuron, head"),
    "nothing matches": (["--hookpoints", "nope.*"], r"'nope\.\*'.*model\.layers\.0"),
    "unknown side": (["--hookpoints", "model.layers.*:up"], "'up'.*:in or :out"),
    "one label for two places": (["--hookpoints", "x=model.layers.0", "x=model.layers.1"], "'x'"),
    "no vector per token": (["--hookpoints", "model.rotary_emb"], "hookpoint"),
    "unknown device": (["--device", "abacus"], "'abacus'.*--device cpu"),
    "unknown dtype": (["--dtype", "int3"], "'int3'.*float32"),
    "resume and overwrite": (["--resume", "--overwrite"], "--resume.*--overwrite"),
}
TARGETS = {
    "file": "file is a file",
    "file/ds": "file",
    "full": "full holds files.*no BIDS dataset",
    "derivative": "derivative is a derivative",
    "torn": "dataset_description.json",
    "/proc/nope/ds": "/proc/nope/ds|could not be written",
    "n" * 300: "n" * 300,
}
AGAIN: dict[str, tuple[list[str], str]] = {
    "same output": ([], "exists already.*--resume.*--overwrite"),
    "resume with other tokens": (["--resume", "--tokens", "3"], "TokensPerPrompt 2, now 3"),
    "resume with another seed": (["--resume", "--seed", "1"], "Seed 0, now 1"),
    "resume in another mode": (["--resume", "--mode", "read"], "Mode generate, now read"),
    "resume with another temperature": (["--resume", "--temperature", "0"], "Temperature None, now 0"),
    "resume with other prompts": (["--resume", "--blocks", "2"], "StimuliSHA256"),
    "resume with more sites and other tokens": (
        ["--resume", "--tokens", "3", "--sites", "block", "mlp"],
        "TokensPerPrompt 2, now 3",
    ),
    "overwrite fewer runs": (["--overwrite"], "run-02.*stay"),
    "task of the same name": (["--task", "else/pathology.tsv", "--subject", "b"], "pathology"),
}


@pytest.mark.parametrize("case", NEW)
def test_record_refuses_in_one_line_and_makes_no_folder(
    here: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    args, told = NEW[case]
    assert re.search(told, refused(here, capsys, "record", "ds", *PATHOLOGY, *args))
    assert not (here / "ds").exists()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:20])
def test_record_refuses_targets_that_are_no_place_for_it(
    here: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    assert re.search(TARGETS[target], refused(here, capsys, "record", target, *PATHOLOGY))


@pytest.mark.parametrize("case", AGAIN)
def test_record_refuses_to_spoil_what_is_there(used: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    args, told = AGAIN[case]
    args = ["record", "ds", *PATHOLOGY, "--subject", "a", *(["--runs", "2"] if "fewer" not in case else []), *args]
    assert re.search(told, refused(used, capsys, *args))


def test_a_second_model_under_one_label_is_refused(
    used: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["record", "ds", *TINY, "--task", "spoken.tsv", "--model", str(models / "gpt2")]
    assert "sub-a is another model" in refused(used, capsys, *args, "--subject", "a")
    assert run(*args, "--subject", "b") == 0


def test_a_second_model_does_not_finish_what_the_first_began(
    used: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["record", "ds", *PATHOLOGY, "--runs", "2", "--subject", "a", "--model", str(models / "gpt2"), "--resume"]
    assert "another --subject" in refused(used, capsys, *args)


def test_weights_that_end_too_early_are_refused(here: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["record", "ds", *TINY, "--task", "spoken.tsv", "--model", str(models / "cut")]
    assert "cut" in refused(here, capsys, *args)


def test_an_encoder_cannot_generate(here: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["record", "ds", *TINY, "--task", "spoken.tsv", "--model", str(models / "bert")]
    assert "--mode read" in refused(here, capsys, *args)
    assert run(*args, "--mode", "read") == 0


@pytest.mark.parametrize(("option", "value"), [("--device", "abacus"), ("--dtype", "int3")])
def test_a_saved_model_refuses_unknown_devices_and_dtypes(
    here: Path, models: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    args = ["record", "ds", *TINY, "--task", "spoken.tsv", "--model", str(models / "gpt2"), option, value]
    assert repr(value) in refused(here, capsys, *args)


@pytest.mark.parametrize("extra", [["--model", "./nope/model"], ["--task", "long.tsv"]])
def test_a_process_ends_with_2_and_one_line_too(here: Path, extra: list[str]) -> None:
    before = contents(here)
    done = python("-m", "llm2bids", "record", "ds", *PATHOLOGY, *extra)
    assert (done.returncode, done.stdout) == (2, "")
    one_line(done.stderr)
    assert contents(here) == before


# Validation


def test_a_good_dataset_validates(
    small_dataset: tuple[Path, list[Recording]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = small_dataset
    assert run("validate", str(root)) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{root}: 0 errors, 0 warnings",
        f"{root / 'derivatives' / 'phantom'}: 0 errors, 0 warnings",
    ]


def test_validation_tells_programs(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validate", str(recorded), "--json") == 0
    raw, derivative = json.loads(capsys.readouterr().out)
    assert raw == {"root": str(recorded), "issues": []}
    assert derivative["issues"] == []


def test_a_run_without_its_sidecar_is_an_error(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(used / "ds" / "derivatives")
    next(used.glob("ds/sub-a/func/*run-01_bold.json")).unlink()
    assert run("validate", "ds") == 1
    first, *issues = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"ds: [1-9]\d* errors, \d+ warnings", first)
    assert any("RepetitionTime" in line and "run-01_bold.nii.gz" in line for line in issues)


def test_a_file_under_a_wrong_name_is_an_error(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(used / "ds" / "derivatives")
    events = next(used.glob("ds/sub-a/func/*run-02_events.tsv"))
    events.rename(events.with_name("sub-a_pathology_events.tsv"))
    assert run("validate", "ds", "--json") == 1
    (validation,) = json.loads(capsys.readouterr().out)
    errors = [issue for issue in validation["issues"] if issue["severity"] == "error"]
    assert any("sub-a_pathology_events.tsv" in issue["location"] for issue in errors)


@pytest.mark.parametrize("folder", ["nope", "full", "file"])
def test_a_folder_that_is_no_dataset_is_not_validated(
    here: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    assert f"{folder} has no dataset_description.json" in refused(here, capsys, "validate", folder)
