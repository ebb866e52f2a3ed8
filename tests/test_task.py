"""Tasks: balanced prompts, designs that never repeat themselves, users' files read exactly or refused by line."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import chain, groupby, pairwise, product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from llm2bids.errors import TaskError
from llm2bids.task import (
    Design,
    Prompt,
    Task,
    Trial,
    builtin_prompts,
    builtin_tasks,
    expand_tasks,
    held_out_prompts,
    lay_out,
    on_topics,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TOPICS = on_topics()
OFF = [prompt for topic, prompts in builtin_prompts().items() if topic not in TOPICS.values() for prompt in prompts]
TOPIC_OF = {prompt.text: prompt.topic for prompt in chain.from_iterable(builtin_prompts().values())}
SMALL = 0.25
"""Standardized mean difference up to which groups count as matched (Rubin 2001, doi:10.1023/A:1020363010465)."""

on_task = pytest.mark.parametrize("name", TOPICS)
any_task = pytest.mark.parametrize("name", [*TOPICS, "rest"])


def texts_of(tasks: Iterable[Task]) -> list[str]:
    return [trial.text for task in tasks for trial in task.trials]


def user_task(folder: Path, content: str | bytes, name: str = "mine.tsv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def tsv(*rows: str) -> str:
    """Rows of cells between bars, as a TSV file."""
    return "".join(row.replace("|", "\t") + "\n" for row in rows)


# The built-in pool


def test_the_pool_holds_six_topics_of_60_prompts_and_fifteen_others_of_150_together() -> None:
    on = [builtin_prompts()[topic] for topic in TOPICS.values()]
    assert len(on) == 6
    assert all(len(prompts) >= 60 for prompts in on)
    assert len({prompt.topic for prompt in OFF}) == 15
    assert len(OFF) >= 150


def test_no_prompt_is_in_the_pool_twice() -> None:
    texts = [prompt.text.casefold() for prompts in builtin_prompts().values() for prompt in prompts]
    assert len(set(texts)) == len(texts)


def test_every_prompt_is_a_clean_line_of_ascii() -> None:
    for text in TOPIC_OF:
        assert text.isascii()
        assert text.isprintable()
        assert text == " ".join(text.split())
        assert '"' not in text


@on_task
def test_on_and_off_have_equally_many_words(name: str) -> None:
    on = [len(prompt.text.split()) for prompt in builtin_prompts()[TOPICS[name]]]
    off = [len(prompt.text.split()) for prompt in OFF]
    assert np.mean(on) == np.mean(off)


@on_task
def test_on_and_off_are_matched_in_characters(name: str) -> None:
    on = np.array([len(prompt.text) for prompt in builtin_prompts()[TOPICS[name]]])
    off = np.array([len(prompt.text) for prompt in OFF])
    difference = (on.mean() - off.mean()) / np.sqrt((on.var(ddof=1) + off.var(ddof=1)) / 2)
    assert abs(difference) <= SMALL
    assert ttest_ind(on, off, equal_var=False).pvalue > 0.05


def frame_shares(prompts: Iterable[Prompt]) -> dict[int, float]:
    counts = Counter(prompt.frame for prompt in prompts)
    return {frame: count / counts.total() for frame, count in sorted(counts.items())}


@on_task
def test_on_and_off_have_the_same_mix_of_frames(name: str) -> None:
    assert frame_shares(builtin_prompts()[TOPICS[name]]) == frame_shares(OFF)
    assert len(frame_shares(OFF)) > 1


# The catalogue


def test_every_listed_task_can_be_laid_out() -> None:
    for name in expand_tasks(builtin_tasks()):
        assert lay_out(name, Design(runs=1, blocks=1, prompts_per_block=1))[0].name == name


def test_the_family_of_nencka_is_its_six_tasks() -> None:
    assert expand_tasks(["nencka2023"]) == tuple(TOPICS)


def test_a_task_asked_for_twice_is_done_once() -> None:
    assert expand_tasks(["pathology", "nencka2023", "x.tsv", "x.tsv"]).count("pathology") == 1
    assert expand_tasks(["x.tsv", "x.tsv"]) == ("x.tsv",)


def test_an_unknown_task_is_refused_and_the_known_ones_are_told() -> None:
    with pytest.raises(TaskError, match=r"'astrology' not found; .*there are nencka2023, .*rest.*\.tsv"):
        lay_out("astrology")


# Laying out


@on_task
def test_blocks_of_off_and_on_alternate_and_off_comes_first_and_last(name: str) -> None:
    for task in lay_out(name, Design(runs=3, blocks=2, prompts_per_block=4)):
        blocks = [(block, {t.trial_type for t in trials}, len(trials)) for block, trials in by_block(task)]
        assert blocks == [(1, {"off"}, 4), (2, {"on"}, 4), (3, {"off"}, 4), (4, {"on"}, 4), (5, {"off"}, 4)]


def by_block(task: Task) -> list[tuple[int, list[Trial]]]:
    return [(block, list(trials)) for block, trials in groupby(task.trials, key=lambda trial: trial.block)]


@on_task
def test_on_prompts_are_of_the_topic_and_off_prompts_of_no_other_task(name: str) -> None:
    for trial in chain.from_iterable(task.trials for task in lay_out(name)):
        if trial.trial_type == "on":
            assert TOPIC_OF[trial.text] == TOPICS[name]
        else:
            assert TOPIC_OF[trial.text] not in TOPICS.values()


@any_task
def test_no_prompt_is_shown_twice_within_a_session(name: str) -> None:
    texts = texts_of(lay_out(name))
    assert len(set(texts)) == len(texts) == 4 * 11 * 3


@any_task
def test_sessions_and_runs_are_numbered_in_order(name: str) -> None:
    tasks = lay_out(name, Design(runs=3, sessions=2))
    assert [(task.session, task.run) for task in tasks] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]


@any_task
def test_another_session_has_another_order(name: str) -> None:
    first, second = lay_out(name, Design(runs=1, sessions=2))
    assert texts_of([first]) != texts_of([second])
    assert [trial.trial_type for trial in first.trials] == [trial.trial_type for trial in second.trials]


@any_task
def test_the_seed_alone_decides(name: str) -> None:
    assert lay_out(name, Design(seed=3)) == lay_out(name, Design(seed=3))
    assert texts_of(lay_out(name, Design(seed=3))) != texts_of(lay_out(name, Design(seed=4)))


@any_task
def test_runs_are_the_same_however_many_are_asked_for(name: str) -> None:
    assert lay_out(name, Design(runs=2)) == lay_out(name, Design(runs=4))[:2]


@any_task
def test_the_first_session_is_the_same_however_many_are_asked_for(name: str) -> None:
    assert lay_out(name, Design(runs=2)) == lay_out(name, Design(runs=2, sessions=3))[:2]


@pytest.mark.parametrize("prompts_per_block", [3, 4])
def test_consecutive_off_prompts_are_of_different_topics(prompts_per_block: int) -> None:
    for name, seed in product(TOPICS, range(12)):
        for task in lay_out(name, Design(runs=3, prompts_per_block=prompts_per_block, seed=seed)):
            topics = [TOPIC_OF[trial.text] for trial in task.trials if trial.trial_type == "off"]
            assert all(one != other for one, other in pairwise(topics)), (name, seed, task.run)


def test_rest_has_no_conditions_and_shows_sentences_only() -> None:
    for task in lay_out("rest"):
        assert task.trial_types == {}
        assert {trial.trial_type for trial in task.trials} == {None}
        assert "random strings" not in {TOPIC_OF[trial.text] for trial in task.trials}


def test_asking_too_much_of_a_condition_tells_how_much_there_is_and_is_needed() -> None:
    with pytest.raises(
        TaskError, match=r"60 on prompts found for task pathology, 75 needed for 5 runs.*reuse_prompts=True"
    ):
        lay_out("pathology", Design(runs=5))
    with pytest.raises(TaskError, match=r"150 off prompts found for task pathology, 302 needed for 1 runs"):
        lay_out("pathology", Design(runs=1, blocks=1, prompts_per_block=151))
    with pytest.raises(TaskError, match=r"450 mixed prompts found for task rest, 462 needed for 14 runs"):
        lay_out("rest", Design(runs=14))


@any_task
def test_with_reuse_prompts_come_again_only_when_all_were_shown(name: str) -> None:
    tasks = lay_out(name, Design(runs=14, reuse_prompts=True))
    assert tasks[:4] == lay_out(name)
    for kind in {trial.trial_type for trial in tasks[0].trials}:
        counts = Counter(t.text for task in tasks for t in task.trials if t.trial_type == kind)
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("field", ["runs", "sessions", "blocks", "prompts_per_block"])
@pytest.mark.parametrize("count", [0, -2])
def test_designs_of_nothing_are_refused(field: str, count: int) -> None:
    with pytest.raises(TaskError, match=rf"^{count} {field.removeprefix('n_').replace('_', ' ')} asked for; 1 or more"):
        Design(**{field: count})


# The table of events


def shown(*trials: Trial) -> Task:
    return Task("mine", trials)


def test_events_say_what_was_shown_when() -> None:
    task = shown(Trial("a", "off", 1), Trial("b", "on", 2), Trial("c", None, 2))
    assert task.events([3, 1, 4], t_r=0.5).to_dict("list") == {
        "onset": [0.0, 1.5, 2.0],
        "duration": [1.5, 0.5, 2.0],
        "trial_type": ["off", "on", "n/a"],
        "block": [1, 2, 2],
        "prompt": [1, 2, 3],
    }


def test_events_of_generated_text_count_the_tokens() -> None:
    table = shown(Trial("a", "off", 1), Trial("b", "on", 2)).events([3, 1], t_r=2.0, responses=True)
    assert [*table] == ["onset", "duration", "trial_type", "block", "prompt", "response_tokens"]
    assert table["response_tokens"].tolist() == [3, 1]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=20), st.sampled_from([0.5, 1.0, 2.0]))
def test_events_follow_each_other_without_gaps(n_scans: list[int], t_r: float) -> None:
    table = shown(*[Trial("a", "on", 1)] * len(n_scans)).events(n_scans, t_r)
    ends = (table["onset"] + table["duration"]).tolist()
    assert table["onset"].tolist() == [0, *ends[:-1]]
    assert ends[-1] == sum(n_scans) * t_r


def test_events_hold_no_text() -> None:
    table = shown(Trial('say "when', "on", 1)).events([2], responses=True)
    assert "when" not in table.to_csv()


# Users' files


def test_a_tsv_and_a_yaml_file_can_say_the_same(tmp_path: Path) -> None:
    table = tsv("text|trial_type|block|run", "a b|off|1|1", "c|on|2|1", "d|on|3|2")
    listed = """\
        trials:
          - {text: a b, trial_type: off, block: 1, run: 1}
          - {text: c, trial_type: on, block: 2, run: 1}
          - {text: d, trial_type: on, block: 3, run: 2}
        """
    expected = (
        Task("mine", (Trial("a b", "off", 1), Trial("c", "on", 2)), run=1),
        Task("mine", (Trial("d", "on", 3),), run=2),
    )
    assert lay_out(user_task(tmp_path, table)) == expected
    assert lay_out(user_task(tmp_path, listed, "mine.yaml")) == expected
    assert lay_out(user_task(tmp_path, listed, "mine.yml")) == expected


def test_a_yaml_file_can_say_what_the_task_is_about(tmp_path: Path) -> None:
    content = """\
        name: colours
        description: Warm and cold.
        instructions: Go on.
        trial_types: {warm: Red words., cold: Blue words.}
        trials: [{text: ice, trial_type: cold}]
        """
    (task,) = lay_out(user_task(tmp_path, content, "mine.yaml"))
    assert (task.name, task.description, task.instructions) == ("colours", "Warm and cold.", "Go on.")
    assert task.trial_types == {"warm": "Red words.", "cold": "Blue words."}


def test_columns_may_come_in_any_order(tmp_path: Path) -> None:
    (task,) = lay_out(user_task(tmp_path, tsv("block|trial_type|text", "7|on|a")))
    assert task.trials == (Trial("a", "on", 7),)


def blocks_of(folder: Path, *rows: str) -> list[int]:
    (task,) = lay_out(user_task(folder, tsv("text|trial_type|block", *rows)))
    return [trial.block for trial in task.trials]


def test_without_blocks_each_stretch_of_a_condition_is_one(tmp_path: Path) -> None:
    assert blocks_of(tmp_path, "a|off|", "b|off|n/a", "c|on|", "d|off|", "e|off|") == [1, 1, 2, 3, 3]


def test_in_an_event_related_design_every_trial_is_a_block(tmp_path: Path) -> None:
    assert blocks_of(tmp_path, "a|cat|", "b|dog|", "c|fish|", "d|cat|") == [1, 2, 3, 4]


def test_blocks_go_on_from_those_that_are_given(tmp_path: Path) -> None:
    assert blocks_of(tmp_path, "a|off|3", "b|off|", "c|on|", "d|on|6") == [3, 3, 4, 6]


def test_default_blocks_begin_anew_in_each_run(tmp_path: Path) -> None:
    tasks = lay_out(user_task(tmp_path, tsv("text|trial_type|run", "a|off|1", "b|on|1", "c|on|2", "d|off|2")))
    assert [[trial.block for trial in task.trials] for task in tasks] == [[1, 2], [1, 2]]


MANY = tsv("text|trial_type", *[f"on {n}|on" for n in range(20)], *[f"off {n}|off" for n in range(20)])


@pytest.mark.parametrize("design", [Design(runs=3), Design(sessions=3)])
def test_more_runs_than_the_file_holds_deal_its_texts_anew(tmp_path: Path, design: Design) -> None:
    tasks = lay_out(user_task(tmp_path, MANY), design)
    assert len({tuple(texts_of([task])) for task in tasks}) == 3
    for task in tasks:
        assert sorted(texts_of([task])) == sorted(texts_of(tasks[:1]))
        assert [trial.trial_type for trial in task.trials] == ["on"] * 20 + ["off"] * 20
        assert all(trial.text.split()[0] == trial.trial_type for trial in task.trials)


def test_the_first_run_of_a_file_is_as_written_and_the_others_depend_on_the_seed(tmp_path: Path) -> None:
    path = user_task(tmp_path, MANY)
    one, other = lay_out(path, Design(runs=2, seed=1)), lay_out(path, Design(runs=2, seed=2))
    assert texts_of(one[:1]) == texts_of(other[:1]) == [line.split("\t")[0] for line in MANY.splitlines()[1:]]
    assert texts_of(one[1:]) != texts_of(other[1:])
    assert one == lay_out(path, Design(runs=2, seed=1))


def test_fewer_runs_than_the_file_holds_are_its_first(tmp_path: Path) -> None:
    path = user_task(tmp_path, tsv("text|trial_type|run", "a|on|1", "b|on|2", "c|on|3"))
    assert lay_out(path, Design(runs=2)) == lay_out(path)[:2]


def test_more_runs_than_a_file_of_several_holds_are_refused(tmp_path: Path) -> None:
    path = user_task(tmp_path, tsv("text|trial_type|run", "a|on|1", "b|on|2"))
    with pytest.raises(TaskError, match=r"mine\.tsv: 2 runs found, 3 asked for"):
        lay_out(path, Design(runs=3))


printable = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))


@example('"')
@example('He said: "no')
@example("'tis #1 \\t \\")
@settings(deadline=None)
@given(st.text(printable, min_size=1).filter(lambda text: text == text.strip()))
def test_any_text_in_a_tsv_file_means_itself(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    tasks = lay_out(user_task(folder, tsv("trial_type|text") + f"on\t{text}\noff\tnext\n", "any.tsv"))
    assert texts_of(tasks) == [text, "next"]


@pytest.mark.parametrize("separator", ["\u2028", "\x85"], ids=["line-separator", "next-line"])
def test_only_the_ends_of_lines_separate_rows(tmp_path: Path, separator: str) -> None:
    assert texts_of(lay_out(user_task(tmp_path, tsv("text|trial_type", f"a{separator}b|on")))) == [f"a{separator}b"]


def test_yaml_texts_may_have_several_lines(tmp_path: Path) -> None:
    content = "trials:\n  - text: |\n      one\n      two\n    trial_type: on\n  - {text: three, trial_type: off}\n"
    assert texts_of(lay_out(user_task(tmp_path, content, "mine.yaml"))) == ["one\ntwo", "three"]


@pytest.mark.parametrize("word", ["on", "off", "yes", "true"])
def test_yaml_words_stay_words(tmp_path: Path, word: str) -> None:
    (task,) = lay_out(user_task(tmp_path, f"trials: [{{text: {word}, trial_type: {word}}}]", "mine.yaml"))
    assert task.trials == (Trial(word, word, 1),)


@pytest.mark.parametrize("name", ["mine.tsv", "mine.yaml"])
def test_a_byte_order_mark_and_windows_line_ends_are_no_text(tmp_path: Path, name: str) -> None:
    content = tsv("text|trial_type", "a|on") if name.endswith("tsv") else "trials:\n- text: a\n  trial_type: on\n"
    tasks = lay_out(user_task(tmp_path, b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode(), name))
    assert tasks == (Task("mine", (Trial("a", "on", 1),)),)


# Users' files that are wrong

BAD_TSV = {
    "empty file": ("", r"line 1.*'text'"),
    "no text column": (tsv("trial_type", "on"), r"line 1.*'text'"),
    "no trial_type column": (tsv("text", "a"), r"line 1.*'trial_type'"),
    "unknown column": (tsv("text|trial_type|colour", "a|on|red"), r"line 1.*'colour'"),
    "column named twice": (tsv("text|trial_type|text", "a|on|b"), r"line 1.*'?text"),
    "commas for tabs": ("text,trial_type\na,on\n", r"line 1.*'text,trial_type'"),
    "empty text": (tsv("text|trial_type", "a|on", "|on"), r"line 3, column 1 \(text\)"),
    "blank text": (tsv("text|trial_type", "a|on", "  |on"), r"line 3, column 1 \(text\)"),
    "no trial_type": (tsv("text|trial_type", "a|"), r"line 2, column 2 \(trial_type\)"),
    "blank lines count": (tsv("text|trial_type", "", "", "a|"), r"line 4, column 2 \(trial_type\)"),
    "block in words": (tsv("text|trial_type|block", "a|on|one"), r"line 2, column 3 \(block\).*'one'"),
    "block with a fraction": (tsv("text|trial_type|block", "a|on|1.5"), r"line 2, column 3 \(block\).*'1\.5'"),
    "block 0": (tsv("text|trial_type|block", "a|on|0"), r"line 2, column 3 \(block\).*'0'"),
    "negative block": (tsv("text|block|trial_type", "a|-1|on"), r"line 2, column 2 \(block\).*'-1'"),
    "descending block": (tsv("text|trial_type|block", "a|on|2", "b|on|1"), r"line 3, column 3 \(block\).*1 after 2"),
    "too few cells": (tsv("text|trial_type", "a|on", "b"), r"line 3, column \d.*1 cells"),
    "too many cells": (tsv("text|trial_type", "a|on|x|y"), r"line 2, column \d.*4 cells"),
    "runs do not begin at 1": (tsv("text|trial_type|run", "a|on|2"), r"line 2, column 3 \(run\).*run 1"),
    "a run is left out": (tsv("text|trial_type|run", "a|on|1", "b|on|3"), r"line 3, column 3 \(run\).*run 2"),
    "a run comes back": (tsv("text|trial_type|run", "a|on|1", "b|on|2", "c|on|1"), r"line 4, column 3 \(run\)"),
    "run in words": (tsv("text|trial_type|run", "a|on|first"), r"line 2, column 3 \(run\).*'first'"),
    "no trials": (tsv("text|trial_type"), r"no trials"),
    "not utf-8": (b"text\ttrial_type\nna\xefve\ton\n", r"UTF-8"),
    "utf-16": (tsv("text|trial_type", "a|on").encode("utf-16"), r"UTF-8"),
}
BAD_YAML = {
    "empty file": ("", r"line 1.*'trials:'"),
    "bracket not closed": ("trials: [\n  {text: a\n", r"line \d, column \d"),
    "quote not closed": ("trials:\n  - text: 'a\n", r"line \d, column \d"),
    "tab for indent": ("trials:\n\t- text: a\n", r"line 2, column 1"),
    "control character": ('trials: [{text: "a\x07b", trial_type: on}]', r"line 1, column 19"),
    "two documents": ("trials: []\n---\ntrials: []\n", r"line 2, column 1"),
    "unknown key": ("trails:\n  - {text: a, trial_type: on}\n", r"line 1, column 1.*'trails'"),
    "key is a list": ("? [a, b]\n: c\ntrials: [{text: a, trial_type: on}]\n", r"line 1"),
    "trials given twice": ("trials: [{text: a, trial_type: on}]\ntrials: [{text: b, trial_type: on}]\n", r"line 2"),
    "text given twice": ("trials: [{text: a, text: b, trial_type: on}]\n", r"line 1"),
    "a list at the top": ("- text: a\n  trial_type: on\n", r"line 1.*mapping"),
    "no trials key": ("description: x\n", r"'trials'"),
    "trials is a text": ("trials: none\n", r"'trials'"),
    "no trials": ("trials: []\n", r"no trials"),
    "trial is a text": ("trials:\n  - hello\n", r"line 2, column 5.*key: value"),
    "unknown key of a trial": ("trials:\n- {text: a, trial_type: on, color: x}", r"line 2, column 29 \(color\)"),
    "list for text": ("trials:\n  - text: [a, b]\n    trial_type: on\n", r"line 2, column 11.*list"),
    "list for description": ("description: [a]\ntrials: [{text: a, trial_type: on}]\n", r"line 1, column 14.*list"),
    "list for trial_types": ("trial_types: [a]\ntrials: [{text: a, trial_type: on}]\n", r"line 1, column 14"),
    "no text": ("trials:\n- {trial_type: on}\n", r"line 2, column \d+ \(text\)"),
    "blank text": ("trials:\n- {trial_type: on, text: '  '}\n", r"line 2, column 20 \(text\)"),
    "no trial_type": ("trials:\n- {text: a}\n", r"line 2, column \d+ \(trial_type\)"),
    "no word": ("trials:\n- {text: a, trial_type: on/off}\n", r"line 2, column 13 \(trial_type\).*'on/off'"),
    "block with a fraction": ("trials:\n- {text: a, trial_type: on, block: 1.5}\n", r"line 2, column 29 \(block\)"),
    "run left out": ("trials:\n- {text: a, trial_type: on, run: 2}\n", r"line 2, column 29 \(run\).*run 1"),
    "name is no label": ("name: my-task\ntrials: [{text: a, trial_type: on}]\n", r"'my-task'.*letters and digits"),
    "not utf-8": (b"trials: [{text: na\xefve, trial_type: on}]", r"UTF-8"),
}


def refusal(path: str) -> str:
    with pytest.raises(TaskError) as caught:
        lay_out(path)
    return str(caught.value)


@pytest.mark.parametrize("case", BAD_TSV)
def test_a_bad_tsv_file_is_refused_in_one_line_that_says_where(tmp_path: Path, case: str) -> None:
    content, place = BAD_TSV[case]
    assert re.fullmatch(rf".*mine\.tsv.*{place}.*", refusal(user_task(tmp_path, content)))


@pytest.mark.parametrize("case", BAD_YAML)
def test_a_bad_yaml_file_is_refused_in_one_line_that_says_where(tmp_path: Path, case: str) -> None:
    content, place = BAD_YAML[case]
    assert re.fullmatch(rf".*mine\.yaml.*{place}.*", refusal(user_task(tmp_path, content, "mine.yaml")))


@pytest.mark.parametrize("word", ["n/a", "NaN", "nan", "NA", "null", "None", "1on", "on off", "on-off", "_on", "é"])
def test_words_that_tools_misread_are_no_conditions(tmp_path: Path, word: str) -> None:
    path = user_task(tmp_path, tsv("trial_type|text", f"{word}|a"))
    with pytest.raises(TaskError, match=rf"line 2, column 1 \(trial_type\): '{word}' found"):
        lay_out(path)


def test_a_yaml_error_names_the_line_of_the_key_not_of_its_trial(tmp_path: Path) -> None:
    content = "trials:\n  - text: a\n    trial_type: on\n    block: x\n"
    with pytest.raises(TaskError, match=r"line 4, column 5 \(block\): 'x' found"):
        lay_out(user_task(tmp_path, content, "mine.yaml"))


@pytest.mark.parametrize("name", ["nope.tsv", "nope.yaml", "nope.yml"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaskError, match=rf"{name} does not exist"):
        lay_out(str(tmp_path / name))


@pytest.mark.parametrize("name", ["my-task.tsv", "my_task.yaml", "mein täsk.tsv"])
def test_a_file_whose_name_is_no_label_is_refused(tmp_path: Path, name: str) -> None:
    content = tsv("text|trial_type", "a|on") if name.endswith("tsv") else "trials: [{text: a, trial_type: on}]"
    with pytest.raises(TaskError, match=r"task name '.*' found; letters and digits needed"):
        lay_out(user_task(tmp_path, content, name))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "mine.tsv"
    link.symlink_to("/proc/self/mem")
    if not link.is_file():
        pytest.skip("needs a file that exists and cannot be read, as Linux has in /proc")
    with pytest.raises(TaskError, match=r"mine\.tsv"):
        lay_out(str(link))


# Clusters and items


def test_every_topic_has_six_clusters_or_more_and_no_cluster_is_of_two_topics() -> None:
    for topic in TOPICS.values():
        counts = Counter(prompt.cluster for prompt in builtin_prompts()[topic])
        assert len(counts) >= 6
        assert topic == "random strings" or min(counts.values()) >= 7
    assert all(prompt.cluster == prompt.topic for prompt in OFF)
    assert len({(p.cluster, p.topic) for p in chain.from_iterable(builtin_prompts().values())}) == len(
        {p.cluster for p in chain.from_iterable(builtin_prompts().values())}
    )
    assert len({prompt.cluster for prompt in builtin_prompts()["random strings"]}) == 60


def test_prompts_are_found_by_task_and_by_topic() -> None:
    for task, topic in TOPICS.items():
        assert builtin_prompts()[task] is builtin_prompts()[topic]
    assert set(builtin_prompts()) == {*TOPICS.values(), *(prompt.topic for prompt in OFF)}
    with pytest.raises(TaskError, match=r"no prompts on 'patholgy' found; did you mean pathology\? there are"):
        builtin_prompts()["patholgy"]


@any_task
def test_trials_of_built_in_tasks_have_the_cluster_of_their_prompt(name: str) -> None:
    clusters = {prompt.text: prompt.cluster for prompt in chain.from_iterable(builtin_prompts().values())}
    for trial in chain.from_iterable(task.trials for task in lay_out(name)):
        assert (trial.cluster, trial.item) == (clusters[trial.text], None)


def test_events_have_the_columns_that_some_prompt_fills() -> None:
    table = shown(Trial("a", "off", 1, item="1"), Trial("b", "on", 2)).events([3, 1])
    assert [*table] == ["onset", "duration", "trial_type", "block", "prompt", "item"]
    assert table["item"].tolist() == ["1", "n/a"]
    table = shown(Trial("a", "off", 1, "x"), Trial("b", "on", 2, "y", "2")).events([3, 1], responses=True)
    assert [*table][5:] == ["cluster", "item", "response_tokens"]
    assert table["cluster"].tolist() == ["x", "y"]


def test_a_tsv_and_a_yaml_file_can_say_what_belongs_together(tmp_path: Path) -> None:
    table = tsv("text|trial_type|cluster|item", "a b|off|the sea|1", "c|on|n/a|1", "d|on|the sea|")
    listed = """\
        trials:
          - {text: a b, trial_type: off, cluster: the sea, item: 1}
          - {text: c, trial_type: on, item: 1}
          - {text: d, trial_type: on, cluster: the sea, item: null}
        """
    trials = (Trial("a b", "off", 1, "the sea", "1"), Trial("c", "on", 2, None, "1"), Trial("d", "on", 2, "the sea"))
    assert lay_out(user_task(tmp_path, table)) == (Task("mine", trials),)
    assert lay_out(user_task(tmp_path, listed, "mine.yaml")) == (Task("mine", trials),)


def test_names_of_clusters_that_readers_of_tables_misread_are_refused(tmp_path: Path) -> None:
    found = refusal(user_task(tmp_path, tsv("text|trial_type|cluster", 'a|on|the "sea"')))
    assert re.search(r"line 2, column 3 \(cluster\): '.*' found, a name of one line without quotation marks", found)
    found = refusal(user_task(tmp_path, 'trials: [{text: a, trial_type: on, item: "1\\n2"}]', "mine.yaml"))
    assert re.search(r"line 1, column 36 \(item\)", found)


CLUSTERED = tsv("text|trial_type|cluster", *[f"{kind} {n}|{kind}|{kind} {n % 5}" for kind in "ab" for n in range(20)])
MATCHED = tsv("text|trial_type|item", *[f"{kind} {n}|{kind}|{n}" for kind in "ab" for n in range(20)])


def test_texts_dealt_anew_keep_their_clusters_and_items(tmp_path: Path) -> None:
    for number, content in enumerate((CLUSTERED, MATCHED)):
        first, *others = lay_out(user_task(tmp_path, content, f"mine{number}.tsv"), Design(runs=3))
        labels = {trial.text: (trial.cluster, trial.item) for trial in first.trials}
        assert len(set(labels.values())) >= 10
        for task in others:
            assert texts_of([task]) != texts_of([first])
            assert all((trial.cluster, trial.item) == labels[trial.text] for trial in task.trials)
            assert [trial.block for trial in task.trials] == [1] * 20 + [2] * 20


# Clusters that are held out


def shown_clusters(name: str, design: Design) -> set[str]:
    return {trial.sample for task in lay_out(name, design) for trial in task.trials}


@any_task
def test_held_out_clusters_are_not_shown_and_all_others_can_be(name: str) -> None:
    design = Design(runs=2, blocks=2, prompts_per_block=30, hold_out=2, seed=5, reuse_prompts=True)
    held_out = {prompt.cluster for pool in held_out_prompts(design).values() for prompt in pool}
    every = shown_clusters(name, replace(design, hold_out=0))
    assert shown_clusters(name, design) == every - held_out
    (task, *_) = lay_out(name, design)
    assert {cluster for clusters in task.held_out.values() for cluster in clusters} == every & held_out
    assert set(map(len, task.held_out.values())) == {2}


def test_all_tasks_and_sessions_hold_out_the_same_clusters() -> None:
    design = Design(runs=1, blocks=1, sessions=2, hold_out=2, seed=3)
    told = [task.held_out for name in (*TOPICS, "rest") for task in lay_out(name, design)]
    for topic in [*TOPICS.values(), "other topics"]:
        assert len({one[topic] for one in told if topic in one}) == 1
    assert set(told[-1]) == {*TOPICS.values(), "other topics"} - {"random strings"}


def test_the_seed_decides_what_is_held_out_and_more_includes_less() -> None:
    def clusters(**settings: int) -> set[str]:
        return {prompt.cluster for prompt in held_out_prompts(Design(**settings))["archeology"]}

    draws = [frozenset(clusters(hold_out=2, seed=seed)) for seed in range(20)]
    assert len(set(draws)) > 5
    assert clusters(hold_out=1) < clusters(hold_out=2) < clusters(hold_out=4)


def test_held_out_prompts_are_whole_clusters_by_topic() -> None:
    assert held_out_prompts(Design()) == {}
    for topic, prompts in held_out_prompts(Design(hold_out=1)).items():
        (cluster,) = {prompt.cluster for prompt in prompts}
        assert prompts == tuple(prompt for prompt in builtin_prompts()[topic] if prompt.cluster == cluster)
    found = held_out_prompts(Design(hold_out=3))
    assert len(found) == 6 + 3
    assert held_out_prompts(Design(hold_out=3), ["pathology", "random strings"]) == {
        topic: found[topic] for topic in ("pathology", "random strings")
    }


def test_holding_out_too_many_clusters_is_refused_in_one_line() -> None:
    with pytest.raises(TaskError, match=r"^6 clusters of pathology found, hold_out=6 leaves none; hold out fewer$"):
        lay_out("pathology", Design(hold_out=6))
    with pytest.raises(TaskError, match=r"^15 clusters of other topics found, hold_out=15 leaves none"):
        lay_out("randomstrings", Design(hold_out=15))
    with pytest.raises(
        TaskError, match=r"\d\d on prompts found for task pathology, 60 needed for 4 runs; ask for fewer"
    ):
        lay_out("pathology", Design(hold_out=1))
    with pytest.raises(TaskError, match=r"^hold_out=-1 found; 0 \(all are shown\) or more needed$"):
        Design(hold_out=-1)


def test_a_file_holds_out_clusters_of_each_condition(tmp_path: Path) -> None:
    (task,) = lay_out(user_task(tmp_path, CLUSTERED), Design(hold_out=2))
    assert Counter(trial.trial_type for trial in task.trials) == {"a": 12, "b": 12}
    assert {name: len(held) for name, held in task.held_out.items()} == {"a": 2, "b": 2}
    assert not {trial.cluster for trial in task.trials} & {name for held in task.held_out.values() for name in held}
    with pytest.raises(TaskError, match=r"^5 clusters of task mine, a, found, hold_out=5 leaves none; hold out fewer$"):
        lay_out(user_task(tmp_path, CLUSTERED), Design(hold_out=5))


def test_a_matched_item_is_held_out_of_both_conditions(tmp_path: Path) -> None:
    (task,) = lay_out(user_task(tmp_path, MATCHED), Design(hold_out=3))
    items = {kind: {t.item for t in task.trials if t.trial_type == kind} for kind in "ab"}
    assert items["a"] == items["b"]
    assert len(items["a"]) == 17
    assert set(task.held_out) == {"a and b"}


def test_prompts_that_belong_to_nothing_are_held_out_one_by_one(tmp_path: Path) -> None:
    (task,) = lay_out(user_task(tmp_path, MANY), Design(hold_out=3))
    assert Counter(trial.trial_type for trial in task.trials) == {"on": 17, "off": 17}


def test_a_run_of_which_nothing_would_be_shown_is_refused(tmp_path: Path) -> None:
    path = user_task(tmp_path, tsv("text|trial_type|cluster|run", "a|on|x|1", "b|on|y|2"))
    with pytest.raises(TaskError, match=r"no prompt of run \d of task mine is left by hold_out=1; hold out fewer"):
        lay_out(path, Design(hold_out=1))
