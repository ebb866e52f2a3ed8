"""A transformer whose functional networks are planted and known: what a scanner's phantom is for MRI.

It is an ordinary ``LlamaForCausalLM`` whose weights are set instead of learned, with an ordinary tokenizer of whole
words. How it works, in the order of the forward pass:

* The embedding of a word that occurs in the prompts of one topic only lights that topic's channel. Every word
  carries noise in all channels.
* Attention averages the topic channels over the text so far (*evidence*). In every block a pair of neurons per topic
  turns evidence into a value between 0 and 1, which the MLP writes into channels of that topic: more of them the later
  the block. Some heads, channels and neurons answer to two topics; medical imaging and pathology share most.
* Neurons of a topic that is not shown are silent: exactly 0, as in any network with ReLU.
* The output layer reads those channels, so that words of the topic become likely: a lesion of the network makes them
  unlikely again.
* All other heads and neurons move noise about, linearly and over windows of several widths, which makes it
  autocorrelated. Two channels are massive.

Nothing else depends on the topic, because of two choices. The epsilon of the normalisation is so large that it only
scales, so that no unit feels the size of another. And the noise of the words is projected such that its mean, seen
through every attention window, is 0 (within 2e-5) over the prompts of each topic and over the words the phantom emits
when they are drawn at temperature 1. (Greedy decoding repeats a few words, whose noise is not 0.)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from string import ascii_lowercase, digits, punctuation
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from torch import nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llm2bids.errors import ModelError, PromptError, SiteError
from llm2bids.model.loading import Identity, Subject, hash_weights, make_subject, pick_device
from llm2bids.space import UnitMask
from llm2bids.task import builtin_prompts, on_topics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.space import UnitSpace

N_BLOCKS: Final = 6
N_CHANNELS: Final = 128
N_HEADS: Final = 8
HEAD_DIM: Final = N_CHANNELS // N_HEADS
N_NEURONS: Final = 256
N_TOKENS: Final = 24
"""Generated tokens per prompt for which the noise is balanced."""
SHARED: Final = (("medicalimaging", "pathology"), ("paleontology", "archeology"))
"""Pairs of topics with common units, most first."""

_SPECIAL: Final = ("<pad>", "<s>", "</s>", "<unk>")
_WINDOWS: Final = (2.0, 4.0, 8.0)
_FREQUENCY: Final = 10000 ** (-3 / (HEAD_DIM // 2))
_UNIFORM_HEADS: Final = 2
_LINEAR_EPS: Final = 1e8

# Units added per block: alone, shared by the first pair, shared by the second pair.
_EVIDENCE: Final = ((1, 0, 0, 1, 1, 1), (0, 0, 0, 1, 1, 1), (0, 0, 0, 0, 0, 1))
_WRITTEN: Final = ((0, 0, 1, 1, 1, 2), (0, 0, 1, 1, 2, 2), (0, 0, 0, 0, 1, 1))
_PAIRS: Final = ((1, 1, 2, 2, 3, 3), (0, 1, 1, 1, 2, 2), (0, 0, 0, 0, 1, 1))
_VALUES: Final = ((1, 1, 2, 2, 3, 3), (0, 0, 1, 1, 2, 2), (0, 0, 0, 0, 1, 1))

_TOPIC: Final = 4.0
"""How strongly a word lights its topic's channel."""
_THRESHOLD: Final = (0.25, 0.45)
"""Evidence at which the neurons of a topic begin to answer, and at which the answer is full."""
_WRITE: Final = 2.0
"""What a full answer writes into a channel, in units of about two standard deviations of its noise."""
_MASSIVE: Final = 200.0
_CONFIDENCE: Final = 12.0
"""Log odds by which a silent network makes the words of its topic less likely."""
_SHARED_SAY: Final = 0.1
"""Part of the output layer's evidence for a topic that comes from channels it shares."""
_GRID: Final = 2.0**13
"""Noise is rounded to its inverse: its last bits depend on processor and threads, and the phantom must not."""
_SHARE: Final = 0.5
"""Share of a topic's own words in the text the phantom writes on it."""


@dataclass(frozen=True)
class _Lexicon:
    """The words of the built-in prompts and which topic each belongs to."""

    topics: tuple[str, ...]
    prompts: Mapping[str, Sequence[str]]
    names: Mapping[str, str] = field(default_factory=on_topics)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token ids: special tokens, characters (unknown words are spelled), words in alphabetical order."""
        characters = ascii_lowercase + digits + punctuation
        spelled = [*characters, *(f"##{character}" for character in characters)]
        sentences = [text for topic, texts in self.prompts.items() if topic != "random strings" for text in texts]
        words = {word for text in sentences for word in text.lower().replace(",", " ,").split()} - set(spelled)
        return {token: number for number, token in enumerate([*_SPECIAL, *spelled, *sorted(words)])}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Splits at blanks and punctuation; begins every text with <s>."""
        raw = Tokenizer(WordPiece(self.vocabulary, unk_token="<unk>"))  # noqa: S106 - no secret
        raw.normalizer = normalizers.Lowercase()
        raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        raw.decoder = decoders.WordPiece()
        raw.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", self.vocabulary["<s>"])]
        )
        names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), _SPECIAL, strict=True))
        return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False, **names)

    @cached_property
    def tokens(self) -> dict[str, list[list[int]]]:
        """Token ids of every prompt, by topic."""
        return {topic: self.tokenizer(list(texts))["input_ids"] for topic, texts in self.prompts.items()}

    @cached_property
    def counts(self) -> dict[str, Counter[int]]:
        """How often each topic's prompts hold each token, special ones aside."""
        special = range(len(_SPECIAL))
        return {
            topic: Counter(token for text in texts for token in text if token not in special)
            for topic, texts in self.tokens.items()
        }

    @cached_property
    def belongs(self) -> NDArray[np.int64]:
        """Number of the task each token belongs to, shape (n_vocabulary,); -1 for words of no or several topics."""
        belongs = np.full(len(self.vocabulary), -1)
        for number, task in enumerate(self.topics):
            others = (count for topic, count in self.counts.items() if topic != self.names[task])
            elsewhere = {token for count in others for token in count}
            belongs[[token for token in self.counts[self.names[task]] if token not in elsewhere]] = number
        return belongs

    @cached_property
    def emission(self) -> NDArray[np.float64]:
        """Probability of each token given its class, shape (n_topics + 1, n_vocabulary); words of no topic last."""
        total = np.zeros(len(self.vocabulary))
        for count in self.counts.values():
            total[list(count)] += list(count.values())
        classes = [self.belongs == number for number in (*range(len(self.topics)), -1)]
        rows = np.stack([np.where(members, total, 0) for members in classes])
        probability: NDArray[np.float64] = rows / rows.sum(1, keepdims=True)
        return probability


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which units answer to which topics, per block: the ground truth."""

    topics: tuple[str, ...]

    @property
    def features(self) -> list[tuple[int, ...]]:
        """Sets of topics that a unit can answer to: each topic alone, then the pairs."""
        single = [(number,) for number in range(len(self.topics))]
        return [*single, *(tuple(self.topics.index(topic) for topic in pair) for pair in SHARED)]

    def allot(self, table: Sequence[Sequence[int]], *, cumulative: bool, start: int) -> list[dict[int, list[int]]]:
        """Give each feature numbered places per block: new ones in every block if cumulative, else the same."""
        blocks, free = [], start
        for block in range(N_BLOCKS):
            free = free if cumulative else start
            places = {}
            for number, feature in enumerate(self.features):
                row = table[0] if len(feature) == 1 else table[1 + number - len(self.topics)]
                places[number] = list(range(free, free + row[block]))
                free += row[block]
            blocks.append(places)
        return blocks

    @property
    def evidence(self) -> list[dict[int, list[int]]]:
        """Channels into which attention writes evidence, by feature, per block."""
        return self.allot(_EVIDENCE, cumulative=True, start=len(self.topics))

    @property
    def written(self) -> list[dict[int, list[int]]]:
        """Channels into which the MLP writes, by feature, per block."""
        return self.allot(_WRITTEN, cumulative=True, start=_end(self.evidence))

    @property
    def values(self) -> list[dict[int, list[int]]]:
        """Dimensions of the uniform heads that average topic channels, by feature, per block."""
        return self.allot(_VALUES, cumulative=False, start=0)

    @property
    def neurons(self) -> list[dict[int, list[int]]]:
        """Neurons in pairs, by feature, per block."""
        pairs = self.allot(_PAIRS, cumulative=False, start=0)
        return [
            {number: [n for pair in places for n in (2 * pair, 2 * pair + 1)] for number, places in block.items()}
            for block in pairs
        ]

    @property
    def massive(self) -> tuple[int, int]:
        """The two massive channels."""
        end = _end(self.written)
        return end, end + 1

    @property
    def raw(self) -> range:
        """Channels that carry nothing but the noise of the word, read by attention."""
        start = self.massive[1] + 1
        return range(start, start + (N_CHANNELS - start) // 2)

    @property
    def mixed(self) -> range:
        """Channels into which attention and MLP write noise."""
        return range(self.raw.stop, N_CHANNELS)

    def units(self, site: str, block: int) -> dict[int, list[int]]:
        """Channels of a site in one block that answer to a topic, by feature."""
        if site == "block":
            sources = [{number: [number] for number in range(len(self.topics))}]
            sources += self.evidence[: block + 1] + self.written[: block + 1]
            numbers = range(len(self.features))
            return {n: [channel for source in sources for channel in source.get(n, [])] for n in numbers}
        tables = {"attn": self.evidence, "mlp": self.written, "head": self.values, "neuron": self.neurons}
        if site not in tables:
            raise SiteError(f"the phantom has no ground truth at {site!r}; use block, attn, mlp, neuron or head")
        return tables[site][block]


def build_phantom(
    seed: int = 0,
    *,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    revision: str | None = None,
) -> Subject:
    """Build the phantom.

    Parameters
    ----------
    seed : int
        Seed of its noise; the networks are the same for every seed.
    device : str
        As for `load`.
    dtype : {"auto", "float32"}
        Its weights are set for single precision.
    device_map, revision : None
        The phantom has neither, so any value is an error.

    Returns
    -------
    Subject
        A model of 6 blocks x 128 channels with its tokenizer. It draws its words at temperature 1.

    Raises
    ------
    ModelError
        If the device cannot be used, or an option is given that the phantom does not have.
    """
    if dtype not in {"auto", "float32"}:
        raise ModelError(f"dtype {dtype!r} found; the phantom's weights are set for float32: leave `dtype` out")
    if device_map or revision:
        raise ModelError("a device map or revision found; the phantom has neither: leave the option out")
    place = pick_device(device)
    lexicon = _lexicon()
    plan = _Plan(lexicon.topics)
    config = LlamaConfig(
        vocab_size=len(lexicon.vocabulary),
        hidden_size=N_CHANNELS,
        intermediate_size=N_NEURONS,
        num_hidden_layers=N_BLOCKS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_HEADS,
        max_position_embeddings=2048,
        hidden_act="relu",
        rms_norm_eps=_LINEAR_EPS,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu")
    rng = np.random.default_rng(seed)
    _set_weights(model, _weights(lexicon, plan, rng))
    _restore_rotary(model, config)
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, eos_token_id=2)
    identity = Identity("phantom", f"seed{seed}", hash_weights(model))
    return make_subject(model.to(place), lexicon.tokenizer, identity)


def phantom_truth(space: UnitSpace) -> dict[str, UnitMask]:
    """Return the units of the phantom that answer to each task, by task."""
    topics = tuple(on_topics())
    plan = _Plan(topics)
    selected = {topic: np.zeros((space.n_hookpoints, space.n_channels[0]), bool) for topic in topics}
    for row, block in enumerate(space.blocks):
        for number, channels in plan.units(space.site, block).items():
            for topic in plan.features[number]:
                selected[topics[topic]][row, channels] = True
    provenance = {"Model": "phantom", "Site": space.site, "Description": "Planted network, known by construction"}
    return {
        topic: UnitMask(space, chosen.reshape(-1), provenance | {"Task": topic}) for topic, chosen in selected.items()
    }


def phantom_texts(subject: Subject, n_texts: int, seed: int = 0) -> dict[str, list[str]]:
    """Let the phantom continue prompts on each of its topics by 24 tokens, and return the texts by task.

    On average no model predicts these texts better than the phantom.
    """
    most = min(len(builtin_prompts()[topic]) for topic in on_topics().values())
    if not 1 <= n_texts <= most:
        raise PromptError(f"{n_texts} texts per topic asked for; 1 to {most} are possible, one per prompt")
    tokenizer, texts = subject.tokenizer, {}
    with torch.random.fork_rng(), torch.inference_mode(), subject.plain_generation():
        torch.manual_seed(seed)
        for task, topic in on_topics().items():
            prompts = [prompt.text for prompt in builtin_prompts()[topic][:n_texts]]
            inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(subject.model.device)
            sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0}
            tokens = subject.model.generate(**inputs, max_new_tokens=N_TOKENS, **sampling)
            texts[task] = [str(text) for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    return texts


def _lexicon() -> _Lexicon:
    """The words of the built-in prompts."""
    prompts = {topic: [prompt.text for prompt in pool] for topic, pool in builtin_prompts().items()}
    return _Lexicon(tuple(on_topics()), prompts)


def _end(blocks: Sequence[Mapping[int, Sequence[int]]]) -> int:
    """The first place after all those that are taken."""
    return 1 + max(place for block in blocks for places in block.values() for place in places)


def _weights(lexicon: _Lexicon, plan: _Plan, rng: np.random.Generator) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Name and value of every parameter that is not 0."""
    scale = np.full(N_CHANNELS, np.sqrt(_LINEAR_EPS))
    yield "model.embed_tokens.weight", _embedding(lexicon, plan, rng)
    for block in range(N_BLOCKS):
        prefix = f"model.layers.{block}"
        yield f"{prefix}.input_layernorm.weight", scale
        yield f"{prefix}.post_attention_layernorm.weight", scale
        for name, value in (_attention(plan, block, rng) | _mlp(plan, block, rng)).items():
            yield f"{prefix}.{name}", value
    yield "model.norm.weight", scale
    yield "lm_head.weight", _output(lexicon, plan)


def _set_weights(model: nn.Module, weights: Iterator[tuple[str, NDArray[np.float64]]]) -> None:
    """Set some parameters, and all others to 0."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, value in weights:
            model.get_parameter(name).copy_(torch.from_numpy(value))


def _restore_rotary(model: LlamaForCausalLM, config: LlamaConfig) -> None:
    """Compute the rotary frequencies, which are no parameters, so that `to_empty` left them undefined."""
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config)


def _embedding(lexicon: _Lexicon, plan: _Plan, rng: np.random.Generator) -> NDArray[np.float64]:
    """Topic, noise and massive values of every word, shape (n_vocabulary, n_channels)."""
    n_topics = len(lexicon.topics)
    spread = np.full(N_CHANNELS, 0.5)
    spread[:n_topics] = 0.2
    spread[[channel for number in range(n_topics) for channel in plan.evidence[0][number]]] = 0.05
    spread[list(plan.raw)] = 1.0
    spread[list(plan.massive)] = 0.5, 15.0
    noise = _balanced(rng.standard_normal((len(lexicon.vocabulary), N_CHANNELS)), lexicon)
    embedding: NDArray[np.float64] = noise * spread
    for number in range(n_topics):
        embedding[lexicon.belongs == number, number] += _TOPIC
    embedding[:, plan.massive] += _MASSIVE, _MASSIVE / 3
    embedding[lexicon.vocabulary["<s>"]] = 0
    embedding[lexicon.vocabulary["<s>"], plan.massive] = _MASSIVE, 4 * _MASSIVE
    return embedding


def _balanced(noise: NDArray[np.float64], lexicon: _Lexicon) -> NDArray[np.float64]:
    """Noise whose mean is 0 over the prompts of each topic, through every window, and over each emitted class.

    Each of these means is a weighted sum of the words' noise, so the constraints are linear. The least-squares solution
    is the smallest change of the noise that fulfils all of them.
    """
    rows = [*lexicon.emission]
    for texts in lexicon.tokens.values():
        means = np.zeros((2 * (len(_WINDOWS) + 2), len(noise)))
        for text in texts:
            for row, weights in enumerate(_profiles(len(text))):
                np.add.at(means[row], text, weights / len(texts))
        rows += [*means]
    constraints = np.stack(rows)
    constraints[:, lexicon.vocabulary["<s>"]] = 0
    unbalanced = constraints @ noise
    balanced = noise - np.linalg.lstsq(constraints, unbalanced, rcond=1e-10)[0]
    rounded: NDArray[np.float64] = np.rint(balanced * _GRID) / _GRID
    return rounded


def _profiles(n_prompt: int) -> list[NDArray[np.float64]]:
    """Weight of each token of a prompt in the mean over its scans, for each window, reading and generating."""
    n_all = n_prompt + N_TOKENS - 1
    lag = np.subtract.outer(np.arange(n_all), np.arange(n_all))
    weights = [np.eye(n_all)]
    for strength in (0.0, *(_strength(width) for width in _WINDOWS)):
        # Queries and keys are constant but for their rotation, so a score depends on the lag alone: its cosine.
        score = np.where(lag >= 0, np.exp(strength * (np.cos(_FREQUENCY * lag) - 1)), 0)
        weights.append(score / score.sum(1, keepdims=True))
    reading = [matrix[1:n_prompt, :n_prompt].mean(0) for matrix in weights]
    return reading + [matrix[n_prompt - 1 :, :n_prompt].mean(0) for matrix in weights]


def _strength(width: float) -> float:
    """How strongly a head prefers near tokens, for a window of `width` tokens (standard deviation)."""
    # exp(s (cos(f lag) - 1)) is about exp(-s (f lag)^2 / 2): a Gaussian with standard deviation 1 / (f sqrt(s)).
    return float(1 / (width * _FREQUENCY) ** 2)


def _attention(plan: _Plan, block: int, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Uniform heads average topics and noise; the others average noise over windows."""
    query = np.zeros((N_HEADS, HEAD_DIM))
    for head in range(_UNIFORM_HEADS, N_HEADS):
        width = _WINDOWS[(head - _UNIFORM_HEADS) % len(_WINDOWS)]
        query[head, 3] = np.sqrt(_strength(width) * np.sqrt(HEAD_DIM))
    value = np.zeros((N_CHANNELS, N_CHANNELS))
    output = np.zeros((N_CHANNELS, N_CHANNELS))
    value[:, list(plan.raw)] = rng.standard_normal((N_CHANNELS, len(plan.raw))) / np.sqrt(len(plan.raw))
    value[:, list(plan.raw)] -= value[:, list(plan.raw)].mean(1, keepdims=True)  # blind to what _spread writes there
    for number, places in plan.values[block].items():
        value[places] = 0
        for topic in plan.features[number]:
            value[places, topic] = 1
        for channel in plan.evidence[block][number]:
            output[channel, places] = 1 / len(places)
    noisy = [place for place in range(N_CHANNELS) if place not in {p for v in plan.values[block].values() for p in v}]
    output[:, noisy] += _spread(plan, len(noisy), rng)
    return {
        "self_attn.q_proj.bias": query.reshape(-1),
        "self_attn.k_proj.bias": query.reshape(-1),
        "self_attn.v_proj.weight": value,
        "self_attn.o_proj.weight": output,
    }


def _mlp(plan: _Plan, block: int, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Pairs of neurons turn evidence into 0 to 1; the others pass noise on."""
    low, high = _THRESHOLD
    # The first neuron of a pair rises from `low` on, the second from `high` on with the opposite output weight. Their
    # difference relu((e - low) / (high - low)) - relu((e - high) / (high - low)) is 0 below `low` and 1 above `high`.
    gate, up = np.zeros((2, N_NEURONS, N_CHANNELS))
    gate_bias, up_bias = rng.uniform(0.5, 1.5, N_NEURONS), np.zeros(N_NEURONS)
    down = np.zeros((N_CHANNELS, N_NEURONS))
    sources = [*plan.raw, *plan.mixed]
    up[:, sources] = rng.standard_normal((N_NEURONS, len(sources))) / np.sqrt(len(sources))
    down += _spread(plan, N_NEURONS, rng) / 2
    for number, neurons in plan.neurons[block].items():
        gate[neurons] = 0
        for topic in plan.features[number]:
            gate[neurons, plan.evidence[0][topic][0]] = 1 / (high - low)
        gate_bias[neurons[::2]], gate_bias[neurons[1::2]] = -low / (high - low), -high / (high - low)
        up[neurons] *= 0.1
        up[neurons[1::2]] = up[neurons[::2]]
        up_bias[neurons] = 1
        down[:, neurons] = 0
        for channel in plan.written[block][number]:
            down[channel, neurons] = np.tile([1, -1], len(neurons) // 2) * _WRITE / (len(neurons) / 2)
    return {
        "mlp.gate_proj.weight": gate,
        "mlp.gate_proj.bias": gate_bias,
        "mlp.up_proj.weight": up,
        "mlp.up_proj.bias": up_bias,
        "mlp.down_proj.weight": down,
    }


def _spread(plan: _Plan, n_sources: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weights that carry noise from sources into every channel, shape (n_channels, n_sources).

    All raw channels get the same: attention reads only their differences, and so never noise of noise.
    """
    weights = rng.standard_normal((N_CHANNELS, n_sources)) / np.sqrt(n_sources)
    strength = np.full(N_CHANNELS, 0.2)
    strength[list(plan.mixed)] = 1.0
    strength[[channel for places in plan.evidence[0].values() for channel in places]] = 0.02
    weights[list(plan.raw)] = weights[plan.raw[0]]
    spread: NDArray[np.float64] = weights * strength[:, None]
    return spread


def _output(lexicon: _Lexicon, plan: _Plan) -> NDArray[np.float64]:
    """Output layer, (n_vocabulary, n_channels): the log probability of a word, and what its topic's network adds."""
    n_topics = len(lexicon.topics)
    output = np.zeros((len(lexicon.vocabulary), N_CHANNELS))
    with np.errstate(divide="ignore"):
        prior = np.log(lexicon.emission).max(0)
    prior = np.where(np.isfinite(prior), prior, -40.0)
    written = {
        number: [channel for block in plan.written for channel in block[number]] for number in range(len(plan.features))
    }
    for topic in range(n_topics):
        pairs = [n for n, feature in enumerate(plan.features) if len(feature) > 1 and topic in feature]
        readout = np.zeros(N_CHANNELS)
        readout[written[topic]] = (1 - _SHARED_SAY if pairs else 1.0) / len(written[topic]) / _WRITE
        for number in pairs:
            readout[written[number]] = _SHARED_SAY / len(pairs) / len(written[number]) / _WRITE
        output[lexicon.belongs == topic] += _CONFIDENCE * readout
        # The silent network lowers the log odds of its words by _CONFIDENCE, and a full answer restores them: then the
        # topic's words have the share _SHARE of the text.
        prior[lexicon.belongs == topic] += np.log(_SHARE / (1 - _SHARE)) - _CONFIDENCE
    output[:, plan.massive[0]] = prior / _MASSIVE
    return output
