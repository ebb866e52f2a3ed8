"""Whatever is done to a model is undone on leaving, also where entering breaks off; and threads do not mix."""

from __future__ import annotations

import ast
import copy
import sys
import threading
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer
from transformers.pytorch_utils import Conv1D

import llm2bids
from llm2bids.bids.dataset import Dataset
from llm2bids.bids.nifti import Grid, NiftiWriter
from llm2bids.errors import MaskError
from llm2bids.masks.files import prefix_errors
from llm2bids.model import tuning
from llm2bids.model.lesions import amplify, lesion, mean_activations, push
from llm2bids.model.loading import Identity
from llm2bids.model.memory import explain_memory_errors
from llm2bids.model.recording import generate, padding_is_harmless, read, tokenize
from llm2bids.model.scoring import continue_tokens, measure_surprisal, split_texts
from llm2bids.model.sites import HookPoint, find_site, measure_widths, record_hookpoints
from llm2bids.model.tuning import Wiring, find_weights, finetune_mask, lora_targets
from llm2bids.pruning.output import published
from llm2bids.pruning.surgery import cut_model, plan_cut
from llm2bids.space import UnitMask, UnitSpace

from .families import texts, tiny_subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llm2bids.model.loading import Subject

    Call = Callable[[Subject, UnitMask], Any]
    Enter = Callable[[Subject, UnitMask], AbstractContextManager[Any]]

FAMILIES = ["llama", "gpt2", "opt"]
IDS = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 10, 11, 12]])


def ones(mask: UnitMask) -> np.ndarray:
    return np.ones(mask.space.n_units)


def points_of(mask: UnitMask) -> list[HookPoint]:
    return [HookPoint.parse(name) for name in mask.space.hookpoints]


CONTEXTS: dict[str, Enter] = {
    "lesion": lambda subject, mask: lesion(subject.model, mask),
    "lesion, means": lambda subject, mask: lesion(subject.model, mask, "mean", means=ones(mask), keep=True),
    "lesion, prompt": lambda subject, mask: lesion(subject.model, mask, positions="prompt", n_prompt=2),
    "lesion, generated": lambda subject, mask: lesion(subject, mask, positions="generated", n_prompt=2),
    "amplify": lambda subject, mask: amplify(subject.model, mask, 3),
    "push": lambda subject, mask: push(subject.model, mask, -1, ones(mask)),
    "finetune_mask": lambda subject, mask: finetune_mask(subject.model, mask),
    "finetune_mask, shared": lambda subject, mask: finetune_mask(subject, mask, shared=True),
    "record_hookpoints": lambda subject, mask: record_hookpoints(subject.model, points_of(mask), torch.clone),
    "explain_memory_errors": lambda _subject, _mask: explain_memory_errors(8),
    "plain_generation": lambda subject, _mask: subject.plain_generation(),
}
FILES: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "lock": lambda folder: Dataset(folder).lock(),
    "stage": lambda folder: Dataset(folder).stage("sub-x_task-a_run-01"),
    "cleanup": lambda folder: Dataset(folder).cleanup(["sub-x_task-a_run-01"]),
    "published": lambda folder: published(folder / "smaller"),
    "prefix_errors": lambda folder: prefix_errors(folder / "map.nii.gz"),
    "NiftiWriter": lambda folder: NiftiWriter(folder / "a_bold.nii", Grid((3, 4, 5), np.eye(4), 1.0)),
}
"""Those that touch files only."""


def some(subject: Subject, site: str = "neuron", share: float = 0.3, seed: int = 0) -> UnitMask:
    points = find_site(subject.model, site)
    space = UnitSpace(site, tuple(map(str, points)), measure_widths(subject.model, points))
    return UnitMask(space, np.random.default_rng(seed).random(space.n_units) < share)


def forward(subject: Subject) -> torch.Tensor:
    logits: torch.Tensor = subject.model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return logits


def hooks_in(owner: object) -> dict[str, list[Any]]:
    return {name: list(found) for name, found in vars(owner).items() if "hook" in name and isinstance(found, dict)}


def state_of(subject: Subject) -> dict[str, Any]:
    """All that may not stay changed: hooks of every kind, gradients, modes, generation, weights, random numbers."""
    model = subject.model
    return {
        "modules": {name: hooks_in(module) for name, module in model.named_modules()},
        "everywhere": [hooks_in(torch_module), hooks_in(torch_optimizer)],
        "training": [module.training for module in model.modules()],
        "parameters": {
            name: (one.requires_grad, one.grad is None, list(one._backward_hooks or ()), one.detach().numpy().tobytes())  # noqa: SLF001
            for name, one in model.named_parameters(remove_duplicate=False)
        },
        "accumulating": [list(one._post_accumulate_grad_hooks or ()) for one in model.parameters()],  # noqa: SLF001
        "generation": model.generation_config.to_dict(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random": torch.get_rng_state().tolist(),
    }


def test_the_state_shows_each_kind_of_change() -> None:
    subject = tiny_subject("llama")
    block, weight = subject.model.model.layers[0], subject.model.model.layers[0].mlp.up_proj.weight
    changes: list[Callable[[], Any]] = [
        lambda: block.register_forward_hook(print),
        lambda: block.register_forward_pre_hook(print),
        lambda: block.register_full_backward_hook(print),
        lambda: weight.register_hook(print),
        lambda: weight.register_post_accumulate_grad_hook(print),
        lambda: weight.requires_grad_(requires_grad=False),
        block.train,
        lambda: setattr(subject.model.generation_config, "max_new_tokens", 3),
        lambda: torch.rand(1),
        lambda: weight.data.add_(1),
    ]
    before = state_of(subject)
    for change in changes:
        change()
        after = state_of(subject)
        assert after != before
        before = after
    handle = torch_optimizer.register_optimizer_step_pre_hook(lambda *_: None)
    assert state_of(subject) != before
    handle.remove()
    assert state_of(subject) == before


def public_context_managers() -> set[str]:
    """Names of all in the package, as its source says."""
    found = set()
    for path in Path(llm2bids.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for scope in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
            for node in scope.body:
                if isinstance(node, ast.ClassDef):
                    methods = {method.name for method in node.body if isinstance(method, ast.FunctionDef)}
                    found |= {node.name} if "__enter__" in methods else set()
                elif isinstance(node, ast.FunctionDef):
                    told = [
                        ast.unparse(one) for one in (*node.decorator_list, *([node.returns] if node.returns else []))
                    ]
                    found |= {node.name} if any("contextmanager" in text.lower() for text in told) else set()
    return {name for name in found if not name.startswith("_")}


def test_no_context_manager_is_forgotten_here() -> None:
    assert public_context_managers() == {name.partition(",")[0] for name in CONTEXTS} | set(FILES)


KINDS = [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration]


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_after_an_exception_inside(family: str, name: str) -> None:
    subject = tiny_subject(family)
    frozen = find_site(subject.model, "mlp")[0].path
    subject.model.get_submodule(frozen).weight.requires_grad_(requires_grad=False)
    subject.model.get_submodule(frozen).train()
    mask, before = some(subject), state_of(subject)
    for kind in KINDS:
        with pytest.raises(kind), CONTEXTS[name](subject, mask):
            assert (state_of(subject) != before) is (name != "explain_memory_errors")
            with torch.inference_mode():
                forward(subject)
            raise kind
        assert state_of(subject) == before
    with CONTEXTS[name](subject, mask), CONTEXTS[name](subject, mask):
        pass
    assert state_of(subject) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_no_file_is_left_after_an_exception_inside(name: str, kind: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(kind), FILES[name](tmp_path) as given:
        if isinstance(given, Path):
            given.mkdir(exist_ok=True)
            (given / "half").write_text("x")
        raise kind
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"lock"}


class _Broken(BaseException):
    """No handler of ours catches it."""


STEPS: list[tuple[Any, str]] = [
    (torch.nn.Module, "register_forward_hook"),
    (torch.nn.Module, "register_forward_pre_hook"),
    (torch.nn.Module, "eval"),
    (torch.Tensor, "register_hook"),
    (torch.Tensor, "requires_grad_"),
    (torch.nn.Linear, "forward"),
    (Conv1D, "forward"),
    (tuning, "register_optimizer_step_pre_hook"),
    (tuning, "register_optimizer_step_post_hook"),
]
"""All that changes a model, and all that may fail while it runs."""


@contextmanager
def breaking(at: int) -> Iterator[list[str]]:
    """The step of this number, from 1, fails; yields the names of those taken."""
    taken: list[str] = []

    def step(name: str, take: Callable[..., Any], *args: Any, **options: Any) -> Any:
        taken.append(name)
        if len(taken) == at:
            raise _Broken
        return take(*args, **options)

    def wrapped(name: str, take: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: step(name, take, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, wrapped(name, getattr(owner, name)))
        yield taken


CALLS: dict[str, Call] = {
    "find_site": lambda subject, _mask: find_site(subject.model, "head"),
    "measure_widths": lambda subject, mask: measure_widths(subject.model, points_of(mask)),
    "find_weights": lambda subject, mask: find_weights(subject.model, mask),
    "lora_targets": lambda subject, mask: lora_targets(subject.model, mask),
    "Wiring": lambda subject, mask: Wiring.find(subject.model, mask.space).weights(~mask),
    "read": lambda subject, mask: list(read(subject, points_of(mask), tokenize(subject, texts(3)), 2)),
    "generate": lambda subject, mask: list(generate(subject, points_of(mask), tokenize(subject, texts(2), 2), 2)),
    "padding": lambda subject, mask: padding_is_harmless(
        subject, points_of(mask), tokenize(subject, texts(2), 3), generating=True
    ),
    "mean_activations": lambda subject, mask: mean_activations(subject, texts(2), mask.space),
    "surprise": lambda subject, _mask: measure_surprisal(subject, split_texts(subject, texts(2))),
    "surprise, lesioned": lambda subject, mask: measure_surprisal(
        subject, split_texts(subject, texts(2)), lambda _starts: lesion(subject.model, mask)
    ),
    "continue_tokens": lambda subject, mask: continue_tokens(
        subject, tokenize(subject, texts(2)), 3, lambda _starts: lesion(subject.model, mask, positions="generated")
    ),
    "prune": lambda subject, mask: cut_model(subject.model, plan_cut(subject.model, mask)),
}


def entered(context: AbstractContextManager[Any]) -> None:
    with context:
        pass


def is_free(subject: Subject, mask: UnitMask) -> bool:
    """Whether another thread can have the model."""
    other = threading.Thread(target=entered, args=(lesion(subject.model, mask),), daemon=True)
    other.start()
    other.join(20)
    return not other.is_alive()


def fresh(subject: Subject) -> Subject:
    """A copy; of a model that was measured before, less is measured."""
    return replace(subject, model=copy.deepcopy(subject.model))


def check_breaking_off(made: Subject, mask: UnitMask, call: Call, steps: Sequence[int]) -> None:
    """Let steps of a call fail in turn."""
    for at in steps:
        subject = fresh(made)
        before = state_of(subject)
        with breaking(at) as taken, pytest.raises(_Broken):
            call(subject, mask)
        assert state_of(subject) == before, f"step {at}: {taken[-1]}"
        assert is_free(subject, mask), f"step {at}: {taken[-1]}"


@pytest.mark.parametrize("name", sorted(CONTEXTS.keys() - {"explain_memory_errors", "plain_generation"}))  # no hooks
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_wherever_entering_breaks_off(family: str, name: str) -> None:
    subject = tiny_subject(family)
    mask = some(subject)
    with breaking(0) as taken, CONTEXTS[name](fresh(subject), mask):
        n_steps = len(taken)
    assert n_steps > 3
    check_breaking_off(subject, mask, lambda *on: entered(CONTEXTS[name](*on)), range(1, n_steps + 1))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_wherever_a_call_breaks_off(family: str, name: str) -> None:
    subject = tiny_subject(family)
    mask, one = some(subject), fresh(subject)
    before = state_of(one)
    with breaking(0) as taken:
        CALLS[name](one, mask)
    assert state_of(one) == before
    check_breaking_off(subject, mask, CALLS[name], range(1, len(taken) + 1, max(1, len(taken) // 12)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recording_that_is_not_read_to_its_end_holds_nothing(family: str) -> None:
    subject = tiny_subject(family)
    mask, before = some(subject), state_of(subject)
    for scans in (
        read(subject, points_of(mask), tokenize(subject, texts(3)), 1),
        generate(subject, points_of(mask), tokenize(subject, texts(3), 2), 2, 1),
    ):
        next(scans)
        assert state_of(subject) == before
        assert is_free(subject, mask)


def recorded(subject: Subject, mask: UnitMask) -> list[Any]:
    tokens, points = tokenize(subject, texts(3)), points_of(mask)
    scans = [*read(subject, points, tokens, 1), *generate(subject, points, tokens, 2, 1)]
    return [one.signals.tolist() for one in scans]


def recorded_lesioned(subject: Subject, mask: UnitMask) -> list[Any]:
    with lesion(subject.model, mask, "add:1"):
        return recorded(subject, mask)


def scored(subject: Subject, mask: UnitMask) -> list[Any]:
    bits = measure_surprisal(subject, split_texts(subject, texts(3)), batch_size=1).bits.tolist()
    said = continue_tokens(subject, tokenize(subject, texts(3)), 3)
    return [bits, said, {name: weights.tolist() for name, weights in find_weights(subject.model, mask).items()}]


def scored_lesioned(subject: Subject, mask: UnitMask) -> list[Any]:
    pieces = split_texts(subject, texts(3))
    bits = measure_surprisal(subject, pieces, lambda _starts: lesion(subject.model, mask), batch_size=1).bits.tolist()
    return [bits, [str(point) for point in find_site(subject.model, "neuron")]]


WORKS = [recorded, recorded_lesioned, scored, scored_lesioned]


def test_eight_threads_recording_and_lesioning_two_models_do_not_mix() -> None:
    subjects = [tiny_subject("llama"), tiny_subject("gpt2")]
    masks = [[some(subject, share=0.5, seed=seed) for seed in range(len(WORKS))] for subject in subjects]
    jobs = [
        (subject, own[number], work)
        for subject, own in zip(subjects, masks, strict=True)
        for number, work in enumerate(WORKS)
    ]
    wanted = [work(subject, mask) for subject, mask, work in jobs]
    before = [state_of(subject) for subject in subjects]
    found: dict[int, list[Any]] = {number: [] for number in range(len(jobs))}
    together = threading.Barrier(len(jobs))

    def run(number: int) -> None:
        subject, mask, work = jobs[number]
        together.wait()
        for _ in range(4):
            found[number].append(work(subject, mask))

    threads = [threading.Thread(target=run, args=(number,)) for number in found]
    switched = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(switched)
    assert found == {number: [right] * 4 for number, right in enumerate(wanted)}
    assert [state_of(subject) for subject in subjects] == before


ON_MASKS: dict[str, Callable[[Any, UnitMask], Any]] = {
    "lesion": lambda model, mask: entered(lesion(model, mask)),
    "amplify": lambda model, mask: entered(amplify(model, mask, 2)),
    "push": lambda model, mask: entered(push(model, mask, 1, ones(mask))),
    "finetune_mask": lambda model, mask: entered(finetune_mask(model, mask)),
    "find_weights": find_weights,
    "lora_targets": lora_targets,
}
OTHERS: dict[str, dict[str, str]] = {
    "other weights": {"Model": "mine", "Revision": "r1", "WeightsSHA256": "cd" * 32},
    "another name": {"Model": "yours", "Revision": "r1"},
    "another revision": {"Model": "mine", "Revision": "r2"},
    "another site": {"Model": "mine", "Site": "mlp"},
}
OWN: list[dict[str, str]] = [{}, {"Model": "mine"}, {"Model": "renamed", "WeightsSHA256": "ab" * 32, "Site": "neuron"}]


@pytest.mark.parametrize("name", ON_MASKS)
def test_a_mask_of_another_model_is_refused_where_the_model_says_which_it_is(name: str) -> None:
    subject = replace(tiny_subject("llama"), identity=Identity("mine", "r1", "ab" * 32))
    mask, before = some(subject), state_of(subject)
    for why, provenance in OTHERS.items():
        with pytest.raises(MaskError, match=r"the mask is of model .*use files of one model and site"):
            ON_MASKS[name](subject, replace(mask, provenance=provenance))
        assert state_of(subject) == before, why
    for provenance in OWN:
        ON_MASKS[name](subject, replace(mask, provenance=provenance))
    for provenance in OTHERS.values():  # a model alone does not say
        ON_MASKS[name](subject.model, replace(mask, provenance=provenance))
