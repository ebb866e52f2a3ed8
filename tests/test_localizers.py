"""The localizers: conditions alike but for what is to be localized, dealt so that no run shows a text and its match."""

from __future__ import annotations

import pydoc_data.topics
import re
from collections import Counter
from itertools import chain, groupby, pairwise, permutations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.errors import OptionError, TaskError
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm
from llm2bids.task import (
    Design,
    Task,
    builtin_prompts,
    builtin_tasks,
    expand_tasks,
    lay_out,
    localizer_texts,
    localizers,
    on_topics,
)
from llm2bids.validation import validate

from .families import tiny_subject

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.usefixtures("blank_figures")
"""No test here looks at a picture."""

CONDITIONS = {
    "language": ("sentences", "nonwords"),
    "theoryofmind": ("belief", "photo"),
    "multipledemand": ("hard", "easy"),
    "syntax": ("grammatical", "scrambled"),
}
ITEM_OF = {name: {x: i for texts in localizer_texts(name).values() for i, x in texts.items()} for name in CONDITIONS}
TINY: dict[str, Any] = {"runs": 1, "blocks": 1, "prompts_per_block": 2, "progress": False}

each = pytest.mark.parametrize("name", CONDITIONS)


def pairs(name: str) -> list[tuple[str, str]]:
    """The two texts of every item."""
    first, second = localizer_texts(name).values()
    assert first.keys() == second.keys()
    return [(first[item], second[item]) for item in first]


def words(texts: Iterable[str]) -> set[str]:
    return set(re.findall("[a-z]+", " ".join(texts).lower()))


def english() -> set[str]:
    """The words of all built-in texts that are English."""
    texts = [prompt.text for topic, pool in builtin_prompts().items() if topic != "random strings" for prompt in pool]
    kinds = {kind: texts for name in CONDITIONS for kind, texts in localizer_texts(name).items() if kind != "nonwords"}
    return words([*texts, *(text for one in kinds.values() for text in one.values())])


# The texts


@each
def test_there_are_texts_enough_for_the_default_design_and_none_is_there_twice(name: str) -> None:
    assert tuple(localizer_texts(name)) == CONDITIONS[name]
    both = pairs(name)
    assert len(both) == {"language": 96, "theoryofmind": 72, "multipledemand": 96, "syntax": 72}[name]
    assert len({text.casefold() for pair in both for text in pair}) == 2 * len(both)


@each
def test_every_text_is_a_clean_line_of_ascii(name: str) -> None:
    for text in ITEM_OF[name]:
        assert text.isascii()
        assert text.isprintable()
        assert text == " ".join(text.split())
        assert '"' not in text


@each
def test_the_texts_of_an_item_have_equally_many_words(name: str) -> None:
    assert all(len(one.split()) == len(other.split()) for one, other in pairs(name))


@each
def test_conditions_are_matched_in_characters(name: str) -> None:
    one, other = np.array([[len(text) for text in pair] for pair in pairs(name)]).T
    if name == "theoryofmind":
        assert abs(one.mean() - other.mean()) < 1.5  # of 174
        assert np.abs(one - other).max() <= 13
    else:
        np.testing.assert_array_equal(one, other)


def test_the_localizers_share_no_text_with_each_other_or_the_other_tasks() -> None:
    prompts = [prompt.text for pool in builtin_prompts().values() for prompt in pool]
    counts = Counter(text.casefold() for texts in [*ITEM_OF.values(), prompts] for text in texts)
    assert max(counts.values()) == 1


@pytest.mark.parametrize("name", ["language", "syntax"])
def test_sentences_are_twelve_words_without_capitals_and_punctuation(name: str) -> None:
    for text in ITEM_OF[name]:
        assert re.fullmatch("[a-z]+( [a-z]+){11}", text), text


def test_each_nonword_is_as_long_as_the_word_in_its_place() -> None:
    for sentence, nonwords in pairs("language"):
        assert [*map(len, sentence.split())] == [*map(len, nonwords.split())]
        assert len(set(nonwords.split())) == 12


def test_nonwords_are_no_words() -> None:
    nonwords = words(localizer_texts("language")["nonwords"].values())
    known = english() | words([*pydoc_data.topics.topics.values(), (Path(__file__).parents[1] / "LICENSE").read_text()])
    for path in Path("/usr/share/dict").glob("*-english"):
        known |= {word for word in path.read_text().split("\n") if word.islower()}
    assert not nonwords & known
    assert len(known) > 5000


def test_nonwords_can_be_pronounced() -> None:
    seen = {pair for word in english() for pair in pairwise(f"^{word}$")}
    for nonword in words(localizer_texts("language")["nonwords"].values()):
        assert {*pairwise(f"^{nonword}$")} <= seen, nonword
        assert re.search("[aeiouy]", nonword), nonword
        assert not re.search("[^aeiouy]{4}", nonword), nonword


def test_stories_of_a_pair_have_equally_many_sentences_and_stop_where_a_word_is_missing() -> None:
    for belief, photo in pairs("theoryofmind"):
        assert belief.count(". ") == photo.count(". ") == 2
        assert belief[-1].isalpha()
        assert photo[-1].isalpha()


def test_stories_are_no_template_with_names_put_in() -> None:
    for kind, texts in localizer_texts("theoryofmind").items():
        bags = [words([text]) for text in texts.values()]
        overlap = [len(one & other) / min(len(one), len(other)) for one, other in permutations(bags, 2)]
        assert max(overlap) < 0.6, kind


def operands(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def test_hard_sums_carry_and_easy_sums_do_not() -> None:
    for hard, easy in pairs("multipledemand"):
        assert sum(number % 10 for number in operands(hard)) > 9
        assert sum(operands(hard)) > 99
        assert sum(number % 10 for number in operands(easy)) <= 9
        assert sum(operands(easy)) <= 99
        assert min(operands(hard)) > 43 >= max(operands(easy))


def test_sums_are_laid_out_alike_and_none_is_another_in_other_order() -> None:
    for text in ITEM_OF["multipledemand"]:
        assert re.fullmatch(r"What is \d\d plus \d\d plus \d\d\? The answer is", text)
    assert len({tuple(sorted(operands(text))) for text in ITEM_OF["multipledemand"]}) == 2 * 96


def test_scrambled_sentences_keep_their_words_and_no_two_neighbours() -> None:
    for sentence, scrambled in pairs("syntax"):
        assert Counter(sentence.split()) == Counter(scrambled.split())
        assert not {*pairwise(sentence.split())} & {*pairwise(scrambled.split())}


# The catalogue


def test_the_family_of_localizers_is_listed_with_its_members() -> None:
    assert expand_tasks(["localizers"]) == localizers() == tuple(CONDITIONS)
    assert {"localizers", *CONDITIONS} <= builtin_tasks().keys()
    assert all("of our own" in builtin_tasks()[name] for name in CONDITIONS)
    assert not on_topics().keys() & CONDITIONS.keys()


# Dealing


def items_of(task: Task) -> list[int]:
    return [ITEM_OF[task.name][trial.text] for trial in task.trials]


def texts_of(tasks: Iterable[Task]) -> list[str]:
    return [trial.text for task in tasks for trial in task.trials]


@each
def test_blocks_of_the_two_conditions_alternate_and_the_second_comes_first_and_last(name: str) -> None:
    first, second = CONDITIONS[name]
    for task in lay_out(name, Design(runs=2, blocks=2, prompts_per_block=4)):
        blocks = [
            (block, {trial.trial_type for trial in trials})
            for block, trials in groupby(task.trials, key=lambda trial: trial.block)
        ]
        assert blocks == [(1, {second}), (2, {first}), (3, {second}), (4, {first}), (5, {second})]
        assert [*task.trial_types] == [first, second]
        for trial in task.trials:
            assert trial.text in localizer_texts(name)[trial.trial_type or ""].values()


@each
def test_the_default_design_shows_no_text_twice(name: str) -> None:
    tasks = lay_out(name)
    assert len(tasks) == 4
    assert len(set(texts_of(tasks))) == len(texts_of(tasks)) == 4 * (15 + 18)


@each
def test_no_run_shows_both_texts_of_an_item_where_it_can_be_helped(name: str) -> None:
    n_items = len(localizer_texts(name)[CONDITIONS[name][0]])
    for n_runs, n_blocks, size in product((1, 2, 3, 5), (1, 2, 5, 11), (1, 3, 7, 12)):
        n_first, n_second = n_blocks * size, (n_blocks + 1) * size
        if n_runs * n_second > n_items or n_first + n_second > n_items:
            continue
        for task in lay_out(
            name, Design(runs=n_runs, sessions=2, blocks=n_blocks, prompts_per_block=size, seed=n_blocks)
        ):
            assert len(set(items_of(task))) == len(task.trials)


def test_a_run_that_needs_most_texts_shows_some_items_twice_but_no_text() -> None:
    (task,) = lay_out("syntax", Design(runs=1, blocks=11, prompts_per_block=6))
    assert len(set(texts_of([task]))) == len(task.trials) == 23 * 6 > 72


@each
def test_the_seed_and_the_session_decide_and_the_number_of_runs_does_not(name: str) -> None:
    one, other = lay_out(name, Design(runs=2, sessions=2, seed=3)), lay_out(name, Design(seed=3))
    assert one[:2] == other[:2]
    assert texts_of(one[:1]) != texts_of(one[2:3])
    assert texts_of(other) != texts_of(lay_out(name, Design(seed=4)))


@each
def test_trials_carry_the_item_that_stands_in_both_conditions(name: str) -> None:
    tasks = lay_out(name)
    for trial in chain.from_iterable(task.trials for task in tasks):
        assert (trial.cluster, trial.item) == (None, str(ITEM_OF[name][trial.text]))
    assert [*tasks[0].events([1] * len(tasks[0].trials))][-1] == "item"


@each
def test_items_are_held_out_of_both_conditions(name: str) -> None:
    design = Design(runs=2, blocks=2, hold_out=20)
    tasks = lay_out(name, design)
    (held_out,) = {task.held_out[" and ".join(CONDITIONS[name])] for task in tasks}
    assert len(held_out) == 20
    assert not {trial.item for task in tasks for trial in task.trials} & {*held_out}
    with pytest.raises(TaskError, match=rf"clusters of task {name} found, hold_out=96 leaves none; hold out fewer"):
        lay_out(name, Design(hold_out=96))


def test_asking_too_much_tells_how_much_there_is_and_what_to_do() -> None:
    with pytest.raises(TaskError, match=r"^72 photo prompts found for task theoryofmind, 90 needed for 5 runs; ask"):
        lay_out("theoryofmind", Design(runs=5))
    with pytest.raises(TaskError, match=r"96 nonwords prompts found .*, 98 needed for 1 runs.*reuse_prompts=True"):
        lay_out("language", Design(runs=1, blocks=1, prompts_per_block=49))


@pytest.mark.parametrize(
    "design",
    [
        Design(runs=14, reuse_prompts=True),
        Design(runs=1, sessions=1, blocks=1, prompts_per_block=100, reuse_prompts=True),
    ],
)
@each
def test_with_reuse_texts_come_again_only_when_all_were_shown(name: str, design: Design) -> None:
    tasks = lay_out(name, design)
    for kind, texts in localizer_texts(name).items():
        counts = Counter(t.text for task in tasks for t in task.trials if t.trial_type == kind)
        assert max(counts.values()) - min(counts[text] for text in texts.values()) <= 1


# From recording to network


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All localizers and a task of another mode, recorded together with no mode named."""
    root = tmp_path_factory.mktemp("localizers") / "ds"
    record(root, task=["localizers", "pathology"], tokens=3, **TINY)
    return root


@each
def test_localizers_are_read_unless_told_otherwise(recorded: Path, name: str) -> None:
    own = read_json(next(recorded.glob(f"sub-*/func/*_task-{name}_*_bold.json")))["Llm2bids"]
    assert own["Mode"] == own["Settings"]["Mode"] == "read"
    assert "TokensPerPrompt" not in own["Settings"]
    assert read_json(recorded / f"task-{name}_bold.json")["Instructions"] == "Read the text."


def test_other_tasks_are_continued_beside_them(recorded: Path) -> None:
    own = read_json(next(recorded.glob("sub-*/func/*_task-pathology_*_bold.json")))["Llm2bids"]
    assert (own["Mode"], own["Settings"]["TokensPerPrompt"], own["NumberOfScans"]) == ("generate", 3, 18)


def test_the_mode_that_is_named_holds_for_all(tmp_path: Path) -> None:
    for mode in ("generate", "read"):
        for run in record(tmp_path / mode, task=["syntax", "pathology"], tokens=2, mode=mode, **TINY):
            assert read_json(run.bold.with_name(f"{run.bold.name.split('.')[0]}.json"))["Llm2bids"]["Mode"] == mode
    with pytest.raises(OptionError, match=r"mode 'dream' found; did you mean read\? use generate, read"):
        record(tmp_path / "dream", task="syntax", mode="dream", **TINY)  # type: ignore[arg-type]


def test_a_model_that_cannot_generate_reads_localizers_with_no_mode_named(tmp_path: Path) -> None:
    (run,) = record(tmp_path / "ds", tiny_subject("bert"), task="syntax", **TINY)
    assert run.n_scans == 6 * 12


@each
def test_events_tell_what_the_conditions_are(recorded: Path, name: str) -> None:
    levels = read_json(recorded / f"task-{name}_events.json")["trial_type"]["Levels"]
    assert tuple(levels) == CONDITIONS[name]
    assert all(len(told) > 20 for told in levels.values())
    events = read_tsv(next(recorded.glob(f"sub-*/func/*_task-{name}_*_events.tsv")))
    first, second = CONDITIONS[name]
    assert events["trial_type"].tolist() == [second, second, first, first, second, second]


def test_the_dataset_is_valid_and_has_a_truth_for_the_planted_task_alone(recorded: Path) -> None:
    assert all((result.n_errors, result.n_warnings) == (0, 0) for result in validate(recorded))
    truths = [*recorded.glob("derivatives/phantom/sub-*/func/*_mask.nii.gz")]
    assert [re.search("task-([a-z]+)_", path.name)[1] for path in truths] == ["pathology"]  # type: ignore[index]


def test_the_glm_compares_the_first_condition_with_the_second(recorded: Path) -> None:
    prep(recorded, progress=False)
    found = glm(recorded, recorded / "derivatives" / "glm", task_label=list(CONDITIONS), progress=False)
    names = ["beliefVsPhoto", "grammaticalVsScrambled", "hardVsEasy", "sentencesVsNonwords"]
    assert sorted(one.contrast for one in found) == names
    for name, (first, second) in CONDITIONS.items():
        model = read_json(recorded / "code" / "models" / f"model-{name}_smdl.json")
        (contrast,) = model["Nodes"][0]["Contrasts"]
        assert contrast["ConditionList"] == [f"trial_type.{first}", f"trial_type.{second}"]
        assert contrast["Weights"] == [1, -1]
