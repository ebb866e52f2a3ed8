"""A pruned model loads without our code and computes what the lesioned one does."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from llm2bids.cli import main
from llm2bids.errors import MaskError, PruneError, SiteError
from llm2bids.masks import save_mask
from llm2bids.model.lesions import lesion
from llm2bids.model.loading import load_pretrained, make_subject
from llm2bids.model.phantom import build_phantom, phantom_truth
from llm2bids.model.sites import find_site, measure_widths
from llm2bids.pruning import prune
from llm2bids.pruning.output import REPORT
from llm2bids.space import UnitMask, UnitSpace

from .families import HIDDEN, N_BLOCKS, WORDS, tiny_subject
from .limits import full_disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

    from llm2bids.model.loading import Subject

READERS = {
    "llama": ("mlp.down_proj", "self_attn.o_proj"),
    "qwen3": ("mlp.down_proj", "self_attn.o_proj"),
    "gpt2": ("mlp.c_proj", ""),
    "opt": ("fc2", ""),
    "gpt_neox": ("mlp.dense_4h_to_h", ""),
    "phi3": ("mlp.down_proj", "self_attn.o_proj"),
}
"""Maps that read neurons and heads; the latter where heads can be taken out."""
IDS = torch.tensor([[1, 5, 9, 6, 7, 20, 11], [1, 8, 5, 14, 19, 10, 6]])
OUTPUTS = {"llama": "self_attn.o_proj", "gpt2": "attn.c_proj", "opt": "self_attn.out_proj"}
"""Maps that read heads, whether or not those can be taken out."""
RELOAD = """\
import sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llm2bids":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
try:
    import llm2bids
except ModuleNotFoundError:
    pass
else:
    sys.exit("our package can be imported")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = Path(sys.argv[1])
ids = torch.load(folder / "ids.pt")
for place in folder.iterdir():
    if place.is_dir():
        model = AutoModelForCausalLM.from_pretrained(place, dtype="float32").eval()
        assert len(AutoTokenizer.from_pretrained(place))
        with torch.inference_mode():
            written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
            torch.save((model(ids).logits, written, model.num_parameters()), place.with_suffix(".pt"))
assert not any(name.startswith("llm2bids") for name in sys.modules)
"""


def mask_at(model: PreTrainedModel, site: str, rows: list[list[int]]) -> UnitMask:
    """Channels chosen in each block."""
    points = find_site(model, site)
    space = UnitSpace(site, tuple(map(str, points)), measure_widths(model, points))
    chosen = np.zeros((space.n_hookpoints, space.n_channels[0]), bool)
    for row, channels in zip(chosen, rows, strict=True):
        row[channels] = True
    return UnitMask(space, chosen.reshape(-1))


def zeroed(subject: Subject, reader: str, rows: list[list[int]]) -> PreTrainedModel:
    """The oracle: the same model with columns of 0 by hand."""
    model, blocks = subject.model, find_site(subject.model, "block")
    with torch.no_grad():
        for block, channels in zip(blocks, rows, strict=True):
            weight = model.get_parameter(f"{block.path}.{reader}.weight")
            (weight if model.config.model_type == "gpt2" else weight.T)[channels] = 0
    return model


def outputs(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        written = model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=6, do_sample=False)
        return model(IDS).logits, written


def loaded(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


NEURONS = [[0, 1, 2, 40], [3, 7, 43], [5, 6, 8, 9, 10]]
"""Three go from each block, two more are set to 0 in the third, one in the first."""


@pytest.mark.parametrize("family", READERS)
def test_without_neurons(family: str, tmp_path: Path) -> None:
    report = prune(tiny_subject(family), mask_at(tiny_subject(family).model, "neuron", NEURONS), tmp_path / "m").report
    small = loaded(tmp_path / "m")
    wanted = outputs(zeroed(tiny_subject(family), READERS[family][0], NEURONS))
    torch.testing.assert_close(outputs(small)[0], wanted[0], atol=1e-4, rtol=0)
    assert torch.equal(outputs(small)[1], wanted[1])
    per_neuron = HIDDEN * (3 if family in {"llama", "qwen3", "phi3"} else 2)
    per_neuron += family in {"gpt2", "opt", "gpt_neox"}  # the bias of what feeds it
    n_before = tiny_subject(family).model.num_parameters()
    n_after = n_before - 3 * N_BLOCKS * per_neuron
    assert report["Parameters"] == {"Before": n_before, "After": n_after, "Zeroed": 3 * per_neuron}
    assert small.num_parameters() == n_after
    width = {"gpt2": "n_inner", "opt": "ffn_dim"}.get(family, "intermediate_size")
    assert report["Settings"] == {width: [44, 41]}
    assert getattr(small.config, width) == 41
    gone = [sorted(place["Removed"] + place["Zeroed"]) for place in report["Hookpoints"]]
    assert gone == NEURONS
    assert [len(place["Zeroed"]) for place in report["Hookpoints"]] == [1, 0, 2]


HEADS = [[*range(8, 24)], [*range(16, 32), 3], [*range(16), 20]]
"""Of two groups of two heads: half a group twice; the second group, and a channel; the first, and a channel."""


@pytest.mark.parametrize("family", [family for family, (_, reader) in READERS.items() if reader])
def test_without_groups_of_heads(family: str, tmp_path: Path) -> None:
    rows = [[*range(16)], *HEADS[1:]]
    report = prune(tiny_subject(family), mask_at(tiny_subject(family).model, "head", rows), tmp_path / "m").report
    small = loaded(tmp_path / "m")
    wanted = outputs(zeroed(tiny_subject(family), READERS[family][1], rows))
    torch.testing.assert_close(outputs(small)[0], wanted[0], atol=1e-4, rtol=0)
    assert torch.equal(outputs(small)[1], wanted[1])
    config = small.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)
    assert report["Parameters"]["Before"] - report["Parameters"]["After"] == N_BLOCKS * HIDDEN * (16 + 8 + 8 + 16)
    assert report["Parameters"]["Zeroed"] == 2 * HIDDEN  # of grouped values nothing is one head's own
    assert [place["Zeroed"] for place in report["Hookpoints"]] == [[], [3], [20]]


def test_parts_of_groups_are_silenced_only(tmp_path: Path) -> None:
    subject = tiny_subject("qwen3")
    with pytest.raises(PruneError, match=r"loses no group of heads with common keys and values whole.*pad=True"):
        prune(subject, mask_at(subject.model, "head", HEADS), tmp_path / "m")
    pruned = prune(subject, mask_at(subject.model, "head", HEADS), tmp_path / "m", pad=True)
    assert {path.name for path in pruned.files} >= {"model.safetensors", "config.json", "README.md", REPORT}
    assert repr(pruned).startswith(f"<PrunedModel of {subject.model.num_parameters():,} parameters, ")
    assert pruned.report["Parameters"]["Before"] == pruned.report["Parameters"]["After"]
    assert "Qwen3ForCausalLM has one width" in pruned.report["Obstacle"]
    wanted = outputs(zeroed(subject, "self_attn.o_proj", HEADS))[0]
    torch.testing.assert_close(outputs(loaded(tmp_path / "m"))[0], wanted, atol=1e-4, rtol=0)


def test_an_architecture_that_demands_divisors_keeps_more_heads(tmp_path: Path) -> None:
    """LlamaConfig wants the heads to divide the hidden size: of 8 heads for 128 channels 5, 6 or 7 are none."""
    subject = build_phantom(device="cpu")
    rows = [[*range(16 * n_gone)] for n_gone in (3, 4, 5, 6, 7, 8)]
    report = prune(subject, mask_at(subject.model, "head", rows), tmp_path / "a", pad=True).report
    assert (report["Settings"], report["Units"]["Removed"]) == ({}, 0)
    report = prune(subject, mask_at(subject.model, "head", [rows[2], *rows[1:]]), tmp_path / "b").report
    assert report["Settings"] == {"num_attention_heads": [8, 4], "num_key_value_heads": [8, 4]}
    assert [len(place["Zeroed"]) // 16 for place in report["Hookpoints"]] == [1, 0, 1, 2, 3, 4]


CUTS = {
    (family, site): (rows, pad)
    for family, heads, pad in (
        ("llama", [[*range(16)], HEADS[1], HEADS[2]], False),
        ("gpt2", [[*range(6)], [*range(6, 12), 3], [23]], True),  # no setting makes these have fewer heads
        ("opt", [[*range(6)], [*range(6, 12), 3], [23]], True),
    )
    for site, rows, pad in (("neuron", NEURONS, False), ("head", heads, pad))
}


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pruned models, and what each says in a process of its own in which our package cannot be imported."""
    folder = tmp_path_factory.mktemp("reloaded")
    for (family, site), (rows, pad) in CUTS.items():
        subject = tiny_subject(family)
        prune(subject, mask_at(subject.model, site, rows), folder / f"{family}-{site}", pad=pad)
    phantom = build_phantom(device="cpu")
    prune(phantom, planted(phantom), folder / "phantom")
    torch.save(IDS, folder / "ids.pt")
    subprocess.run([sys.executable, "-I", "-c", RELOAD, folder], check=True, cwd=folder, capture_output=True)
    return folder


def planted(subject: Subject) -> UnitMask:
    truth = phantom_truth(mask_at(subject.model, "neuron", [[]] * 6).space)
    return truth["medicalimaging"] | truth["pathology"]


@pytest.mark.parametrize(("family", "site"), CUTS)
def test_without_our_package_it_equals_the_lesioned_model(family: str, site: str, reloaded: Path) -> None:
    subject, (rows, pad) = tiny_subject(family), CUTS[family, site]
    found, written, n_parameters = torch.load(reloaded / f"{family}-{site}.pt")
    with lesion(subject.model, mask_at(subject.model, site, rows)):
        lesioned = outputs(subject.model)
    by_hand = outputs(zeroed(subject, READERS[family][0] if site == "neuron" else OUTPUTS[family], rows))
    for wanted in (lesioned, by_hand):
        torch.testing.assert_close(found, wanted[0], atol=1e-4, rtol=1e-5)
        assert torch.equal(written, wanted[1])
    intact = tiny_subject(family).model
    assert (outputs(intact)[0] - found).abs().max() > 0.1
    assert (n_parameters < intact.num_parameters()) is not pad


def test_without_our_package_the_phantom_equals_the_lesioned_phantom(reloaded: Path) -> None:
    subject = build_phantom(device="cpu")
    rows = [channels.tolist() for channels in map(np.flatnonzero, planted(subject).selected.reshape(6, -1))]
    found, written, _ = torch.load(reloaded / "phantom.pt")
    wanted = outputs(zeroed(subject, "mlp.down_proj", rows))
    torch.testing.assert_close(found, wanted[0], atol=1e-4, rtol=1e-5)
    assert torch.equal(written, wanted[1])
    sampling = loaded(reloaded / "phantom").generation_config
    assert (sampling.do_sample, sampling.temperature) == (True, 1.0)


def test_keep_takes_out_all_others(tmp_path: Path) -> None:
    subject = tiny_subject("llama")
    kept = mask_at(subject.model, "neuron", [[*range(20)]] * N_BLOCKS)
    one, other = (prune(subject, mask, tmp_path / name, keep=name == "a") for mask, name in ((kept, "a"), (~kept, "b")))
    assert one.report["Hookpoints"] == other.report["Hookpoints"]
    assert loaded(tmp_path / "a").config.intermediate_size == 20


def test_protected_blocks_lose_nothing_and_so_no_block_gets_narrower(tmp_path: Path) -> None:
    subject = tiny_subject("gpt2")
    mask = mask_at(subject.model, "neuron", NEURONS)
    with pytest.raises(PruneError, match="nothing can be removed, only set to 0: a block loses no neuron whole"):
        prune(subject, mask, tmp_path / "m", protect_first=1)
    report = prune(subject, mask, tmp_path / "m", protect_first=1, protect_last=1, pad=True).report
    assert [place["Zeroed"] for place in report["Hookpoints"]] == [[], NEURONS[1], []]
    assert report["Protected"] == {"First": 1, "Last": 1}
    wanted = outputs(zeroed(subject, "mlp.c_proj", [[], NEURONS[1], []]))[0]
    torch.testing.assert_close(outputs(loaded(tmp_path / "m"))[0], wanted, atol=1e-4, rtol=0)
    with pytest.raises(PruneError, match="2 first and 1 last blocks of 3 protected"):
        prune(subject, mask, tmp_path / "n", protect_first=2, protect_last=1)


def written_text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text(" ".join(WORDS * 3))
    return path


BIASED: dict[str, dict[str, Any]] = {"gpt2": {}, "opt": {}, "llama": {"mlp_bias": True}}
"""Families whose neurons are fed with biases, or their settings for that."""
FEEDING = {"gpt2": ["mlp.c_fc"], "opt": ["fc1"], "llama": ["mlp.gate_proj", "mlp.up_proj"]}


def busy_subject(family: str, *, constant: bool) -> Subject:
    """Neurons whose mean is far from 0: that do nothing but stay there, or answer to the text besides."""
    subject = tiny_subject(family, **BIASED[family])
    for block in find_site(subject.model, "block"):
        for name in FEEDING[family]:
            module = subject.model.get_submodule(f"{block.path}.{name}")
            with torch.no_grad():
                module.bias.copy_(torch.linspace(0.5, 1.5, 44))
                module.weight.mul_(0 if constant else 0.3)
    return subject


@pytest.mark.parametrize("family", BIASED)
def test_bias_compensation_makes_up_for_neurons_that_never_change(family: str, tmp_path: Path) -> None:
    subject, text = busy_subject(family, constant=True), written_text(tmp_path)
    mask = mask_at(subject.model, "neuron", [[*range(20)], [*range(30, 44)], [*range(5, 9)]])
    for protected in ({}, {"protect_first": 1}, {"protect_first": 1, "protect_last": 1}):
        out = tmp_path / f"{len(protected)}"
        report = prune(subject, mask, out, pad=True, compensate_bias=True, text=text, **protected).report
        assert report["BiasCompensation"]
        torch.testing.assert_close(outputs(loaded(out))[0], outputs(subject.model)[0], atol=2e-4, rtol=0)
        blocks = [point.path for point in find_site(subject.model, "block")]
        kept = blocks[: protected.get("protect_first", 0)] + blocks[len(blocks) - protected.get("protect_last", 0) :]
        for name, before in subject.model.named_parameters():
            if name.startswith(tuple(f"{block}." for block in kept)):
                assert torch.equal(loaded(out).get_parameter(name), before)
    prune(subject, mask, tmp_path / "plain", pad=True)
    assert (outputs(loaded(tmp_path / "plain"))[0] - outputs(subject.model)[0]).abs().max() > 0.1


@pytest.mark.parametrize("family", BIASED)
def test_bias_compensation_brings_outputs_nearer_to_those_of_the_whole_model(family: str, tmp_path: Path) -> None:
    subject, text = busy_subject(family, constant=False), written_text(tmp_path)
    apart = {}
    for compensate in (False, True):
        for number in range(4):
            out, rng = tmp_path / f"{compensate}{number}", np.random.default_rng(number)
            rows = [rng.choice(44, 15, replace=False).tolist() for _ in range(N_BLOCKS)]
            mask = mask_at(subject.model, "neuron", rows)
            prune(subject, mask, out, compensate_bias=compensate, text=text)
            apart[compensate, number] = (outputs(loaded(out))[0] - outputs(subject.model)[0]).norm().item()
    for number in range(4):
        assert apart[True, number] < 0.8 * apart[False, number]


@pytest.mark.parametrize(
    ("family", "site", "bias"),
    [("gpt2", "neuron", None), ("llama", "neuron", "mlp_bias"), ("qwen3", "head", "attention_bias")],
)
def test_bias_compensation_keeps_the_mean_output_of_the_maps(family: str, site: str, bias: str, tmp_path: Path) -> None:
    rows = [[], [*range(16)], []]
    texts, apart = written_text(tmp_path), {}
    ids = torch.tensor([tiny_subject(family).tokenizer(texts.read_text())["input_ids"]])
    reader = find_site(tiny_subject(family).model, site)[1].path
    for name, flag in (("intact", None), ("plain", False), ("compensated", True)):
        model = tiny_subject(family).model
        if flag is not None:
            options: dict[str, Any] = {"pad": True, "compensate_bias": flag, "text": texts}
            prune(tiny_subject(family), mask_at(model, site, rows), tmp_path / name, **options)
            model = loaded(tmp_path / name)
        seen: list[torch.Tensor] = []
        model.get_submodule(reader).register_forward_hook(lambda _m, _a, output, seen=seen: seen.append(output))
        with torch.inference_mode():
            model(ids)
        apart[name] = seen[0].reshape(-1, HIDDEN)[1:].mean(0)  # the start token does not count
        assert bias is None or getattr(model.config, bias, False) is bool(flag)
    torch.testing.assert_close(apart["compensated"], apart["intact"], atol=1e-4, rtol=0)
    assert (apart["plain"] - apart["intact"]).norm() > 0.01


def test_perplexity_before_and_after(tmp_path: Path) -> None:
    subject = tiny_subject("llama")
    mask = mask_at(subject.model, "neuron", [[*range(22)]] * N_BLOCKS)
    scored = prune(subject, mask, tmp_path / "m", text=written_text(tmp_path)).report["Perplexity"]
    for when, model in (("Before", subject.model), ("After", loaded(tmp_path / "m"))):
        ids = torch.tensor([subject.tokenizer(written_text(tmp_path).read_text())["input_ids"]])
        with torch.inference_mode():
            assert scored[when] == pytest.approx(model(ids, labels=ids).loss.exp().item(), rel=1e-4)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subject = tiny_subject("opt")
    subject.model.save_pretrained(tmp_path / "big")
    subject.tokenizer.save_pretrained(tmp_path / "big")
    big = load_pretrained(str(tmp_path / "big"))
    mask = mask_at(big.model, "neuron", NEURONS)
    described = {**big.describe(), "Site": "neuron"}
    save_mask(UnitMask(mask.space, mask.selected, described), tmp_path / "mask.tsv")
    command = [
        "prune",
        "--model",
        str(tmp_path / "big"),
        "--mask",
        str(tmp_path / "mask.tsv"),
        "--out",
        str(tmp_path / "m"),
    ]
    assert main([*command, "--text", str(written_text(tmp_path))]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["block  neuron channels  removed  set to 0", "    0               41        3         1"]
    assert (
        told[4]
        == f"parameters {big.model.num_parameters():,} → {big.model.num_parameters() - 441:,}, of these set to 0: 147"
    )
    report = json.loads((tmp_path / "m" / "llm2bids_prune.json").read_text())
    assert (
        report["Mask"]["Provenance"]["WeightsSHA256"]
        == report["Source"]["WeightsSHA256"]
        == big.identity.weights_sha256
    )
    assert report["WeightsSHA256"] == load_pretrained(str(tmp_path / "m")).identity.weights_sha256
    assert 'OPTForCausalLM.from_pretrained("m")' in (tmp_path / "m" / "README.md").read_text()
    assert len(AutoTokenizer.from_pretrained(tmp_path / "m")) == len(big.tokenizer)
    assert main(command) == 2
    assert "is there already; choose another folder, or replace it with --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["Units"] == {"Asked": 12, "Removed": 9, "Zeroed": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "m", "mask.json", "mask.tsv", "words.txt"]


def test_what_feeds_what_is_found_out_once(tmp_path: Path) -> None:
    """By a forward pass with gradients, which is what costs most."""
    subject, passes = tiny_subject("llama"), []
    subject.model.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    for site, rows in (("neuron", NEURONS), ("head", [[*range(16)], *HEADS[1:]])):
        passes.clear()
        prune(subject, mask_at(subject.model, site, rows), tmp_path / site)
        assert passes.count(True) == 1


def crowd(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, crowded: Callable[..., bool]) -> None:
    """A method for which there is too little memory in some cases."""
    method = getattr(owner, name)

    def fails(*args: Any, **options: Any) -> Any:
        if crowded(*args, **options):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return method(*args, **options)

    monkeypatch.setattr(owner, name, fails)


CROWDED: dict[str, tuple[str, Callable[..., bool], str]] = {
    "texts": (
        "forward",
        lambda *_, input_ids, **__: input_ids.numel() > 30,
        "for 4 texts at a time; lower --batch-size",
    ),
    "what feeds what": ("forward", lambda *_, **__: torch.is_grad_enabled(), "device; use --dtype bfloat16"),
    "the smaller model": ("load_state_dict", lambda *_, **__: True, "device; use --dtype bfloat16"),
    "the device": ("to", lambda *_, **__: True, "device; use --dtype bfloat16"),
}


@pytest.mark.parametrize("name", CROWDED)
def test_too_little_memory_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = tiny_subject("llama")
    subject.model.save_pretrained(tmp_path / "big")
    subject.tokenizer.save_pretrained(tmp_path / "big")
    save_mask(mask_at(subject.model, "neuron", NEURONS), tmp_path / "mask.json")
    method, crowded, advice = CROWDED[name]
    crowd(monkeypatch, LlamaForCausalLM, method, crowded)
    paths = {"--model": "big", "--mask": "mask.json", "--out": "m", "--text": written_text(tmp_path).name}
    named = [part for option, path in paths.items() for part in (option, str(tmp_path / path))]
    capsys.readouterr()
    assert main(["prune", *named, "--batch-size", "4"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("llm2bids: too little memory on the ")
    assert advice in told
    assert told.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "mask.json", "words.txt"]


def test_half_precision_stays_half_precision(tmp_path: Path) -> None:
    subject = tiny_subject("llama")
    subject.model.to(torch.bfloat16).save_pretrained(tmp_path / "big")
    subject.tokenizer.save_pretrained(tmp_path / "big")
    prune(str(tmp_path / "big"), mask_at(subject.model, "neuron", NEURONS), tmp_path / "m", device="cpu")
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto")
    assert small.dtype == torch.bfloat16
    assert torch.equal(small.get_parameter("lm_head.weight"), subject.model.get_parameter("lm_head.weight"))
    kept = [channel for channel in range(44) if channel not in NEURONS[1]]
    weight = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(small.get_parameter(weight), subject.model.get_parameter(weight)[:, kept])


def test_a_mask_of_another_model_is_refused(tmp_path: Path) -> None:
    subject = tiny_subject("llama")
    mask = mask_at(subject.model, "neuron", NEURONS)
    other = UnitMask(mask.space, mask.selected, {"Model": "LlamaForCausalLM", "WeightsSHA256": "f" * 64})
    with pytest.raises(MaskError, match=r"weights ffffffffffff.*use files of one model and site"):
        prune(subject, other, tmp_path / "m")
    for provenance in ({"Model": "other"}, {"Model": "LlamaForCausalLM", "Revision": "r2"}, {"Site": "head"}):
        with pytest.raises(MaskError, match="use files of one model and site"):
            prune(subject, UnitMask(mask.space, mask.selected, provenance), tmp_path / "m")
    with pytest.raises(MaskError, match="use a mask of all blocks of this model"):
        prune(tiny_subject("gpt2"), mask, tmp_path / "m")
    with pytest.raises(MaskError, match="use a mask of all blocks of this model"):
        prune(tiny_subject("llama", intermediate_size=45), mask, tmp_path / "m")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("family", "site", "error", "says"),
    [
        ("llama", "block", PruneError, "site 'block' found; only neurons and heads"),
        ("gpt2", "head", PruneError, "GPT2LMHeadModel cannot be configured with less than every head"),
        ("bloom", "neuron", PruneError, "BloomForCausalLM has no setting for the number of neurons"),
        ("mixtral", "neuron", SiteError, "MixtralForCausalLM has no site 'neuron'"),
    ],
)
def test_what_cannot_be_pruned_is_refused_by_name(
    family: str, site: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    subject = tiny_subject(family)
    points = find_site(subject.model, "attn" if family == "mixtral" else site)
    space = UnitSpace(site, tuple(map(str, points)), measure_widths(subject.model, points))
    mask = UnitMask(space, np.tile(np.arange(space.n_channels[0]) < space.n_channels[0] // 2, N_BLOCKS))
    with pytest.raises(error, match=says):
        prune(subject, mask, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_other_refusals(tmp_path: Path) -> None:
    subject, bert = tiny_subject("qwen3"), tiny_subject("bert")
    mask = mask_at(subject.model, "neuron", NEURONS)
    with pytest.raises(PruneError, match="give the file to average over as `text`"):
        prune(subject, mask, tmp_path / "m", compensate_bias=True)
    text = written_text(tmp_path)
    with pytest.raises(PruneError, match="Qwen3ForCausalLM has no biases where neurons are read"):
        prune(subject, mask, tmp_path / "m", compensate_bias=True, text=text)
    with pytest.raises(PruneError, match="does not predict the next token; leave `text` out"):
        prune(bert, mask_at(bert.model, "neuron", NEURONS), tmp_path / "m", text=text)
    with pytest.raises(PruneError, match="no unit to take out"):
        prune(subject, mask_at(subject.model, "neuron", [[]] * N_BLOCKS), tmp_path / "m")
    with pytest.raises(PruneError, match="no model that llm2bids pruned; choose another folder"):
        prune(subject, mask, tmp_path, overwrite=True)
    assert list(tmp_path.iterdir()) == [text]


class _Louder(LlamaForCausalLM):
    """Is not what its saved configuration makes of it."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output


def test_a_model_that_would_compute_something_else_is_not_written(tmp_path: Path) -> None:
    subject = tiny_subject("llama")
    louder = _Louder(subject.model.config)
    louder.load_state_dict(subject.model.state_dict())
    mask = mask_at(louder, "neuron", NEURONS)
    with pytest.raises(PruneError, match="_Louder does not compute what the lesioned one does, so it was not written"):
        prune(make_subject(louder, subject.tokenizer), mask, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_unequal_blocks_and_heads_are_refused(tmp_path: Path) -> None:
    unequal, odd = tiny_subject("gpt2"), tiny_subject("llama")
    unequal.model.transformer.h[1].mlp = tiny_subject("gpt2", n_inner=40).model.transformer.h[1].mlp
    points = find_site(unequal.model, "neuron")
    space = UnitSpace("neuron", tuple(map(str, points)), measure_widths(unequal.model, points))
    with pytest.raises(PruneError, match="GPT2LMHeadModel has unequal numbers of neurons in its blocks"):
        prune(unequal, UnitMask.from_units(space, [0, 50, 100]), tmp_path / "m")
    mask = mask_at(odd.model, "head", HEADS)
    odd.model.config.num_key_value_heads = 3
    with pytest.raises(PruneError, match="LlamaForCausalLM has heads of unequal widths"):
        prune(odd, mask, tmp_path / "m")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    subject = build_phantom(device="cpu")
    mask = mask_at(subject.model, "neuron", [[0, 1]] * 6)
    with full_disk(), pytest.raises(PruneError, match="cannot be written"):
        prune(subject, mask, tmp_path / "m")
    assert not list(tmp_path.iterdir())
