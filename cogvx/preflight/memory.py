"""How much memory training takes at its peak, in bytes and by part.

The peak comes in the backward pass, at a block whose activations are all there while the gradients
through its feed-forward part are made; or at the update, where there are few tokens. What a block
keeps for its backward pass follows from its operations, in the order of `CogVideoXBlock.forward`.

Letters: D is the transformer's width, n the tokens of a micro-batch, text included.

Source: diffusers `CogVideoXBlock`, peft `lora.Linear`; torch's list of operations that autocast
runs in float32, which on a GPU has `layer_norm` on it.
"""

from dataclasses import dataclass

from cogvx.adapters.linears import BLOCK, LinearSize, block_linears, local_name
from cogvx.preflight.parameters import adapted_linears, adapter_parameters, base_parameters
from cogvx.recipe import Recipe
from cogvx.recipe_sections import BaseWeights, Checkpointing, LoraConfig, TrainConfig
from cogvx.shapes import VideoSize
from cogvx.variants import BaseFacts, DType

GIB = 2**30

_FLOAT = 4
_WORD = {"float32": 4, "bfloat16": 2, "float16": 2}
# Per parameter: the optimiser's moments, and for Prodigy where it started and how far it came.
_OPTIMISER_STATE = {"adamw": 8.0, "adamw8bit": 2.04, "prodigy": 16.0}
_UPDATE_SCRATCH = 8  # per parameter: torch's AdamW works on all of them at once
_SCORE_GRADIENTS = 2  # of plain attention: that of the softmax, that of what went in
_LATENT_COPIES = 4  # latents, noise, target, prediction; float32
_CONTEXT = 0.75 * GIB  # what CUDA, cuBLAS and cuDNN take for themselves
_FRAGMENTS = 0.04  # of what comes and goes, lost between the allocator's blocks


@dataclass(frozen=True)
class PeakMemory:
    """Bytes of a GPU, or of main memory, at the peak.

    Attributes:
        base: The frozen transformer.
        adapter: The adapter, its gradients, the optimiser's state, and a running mean.
        activations: What is kept of every block from the forward to the backward pass.
        block: What comes and goes while one block is computed again and its gradients are made.
        reserve: What CUDA takes, and what the allocator cannot use.
    """

    base: int
    adapter: int
    activations: int
    block: int
    reserve: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.base + self.adapter + self.activations + self.block + self.reserve

    @property
    def gib(self) -> float:
        """All parts together, in GiB."""
        return self.total / GIB


@dataclass(frozen=True)
class Precision:
    """Which numbers a step keeps. `word` is the base's bytes a number.

    `mixed` is autocast on a GPU: norms in float32, adapters in the base's precision. Without it
    each adapter keeps its input in float32, unless the base is float32 already.
    """

    word: int
    mixed: bool

    @classmethod
    def of(cls, dtype: DType, *, on_gpu: bool) -> "Precision":
        """As `objective.precision` runs a base of this precision."""
        word = _WORD[dtype]
        return cls(word=word, mixed=on_gpu and word < _FLOAT)

    @property
    def norm(self) -> int:
        """Bytes a number of what a norm keeps."""
        return _FLOAT if self.mixed else self.word

    @property
    def adapter(self) -> int:
        """Bytes a number of what an adapter keeps."""
        return self.word if self.mixed else _FLOAT


def peak_memory(
    recipe: Recipe,
    facts: BaseFacts,
    *,
    checkpointing: Checkpointing,
    base_weights: BaseWeights,
    on_gpu: bool = True,
) -> PeakMemory:
    """The most that one process holds at once, at the largest size of the recipe."""
    precision = Precision.of(recipe.base.dtype, on_gpu=on_gpu)
    size = max(recipe.video.sizes, key=facts.tokens)
    rows = recipe.train.micro_batch * facts.tokens(size)
    saved = block_saved(facts, recipe.lora, rows=rows, precision=precision)
    block = _block_gradients(facts, rows=rows, precision=precision)
    if plain := recipe.compute.attention == "math":
        scores = attention_scores(facts, size, clips=recipe.train.micro_batch)
        saved += scores
        block = max(block, _SCORE_GRADIENTS * scores)  # one comes after the other
    block += _unpacked(facts, base_weights, precision)
    if checkpointing == "none":
        kept = facts.layers * saved
    else:
        block += saved
        kept = facts.layers * block_input(facts, rows=rows, precision=precision)
    if checkpointing == "selective" and not plain:  # which leaves no output to find
        attention = attention_output(facts, rows=rows, precision=precision)
        kept += facts.layers * attention
        block -= attention  # the block finds it there
    kept += _latents(facts, size, clips=recipe.train.micro_batch)
    # with few tokens the peak is the update's
    block = max(block, _UPDATE_SCRATCH * adapter_parameters(facts, recipe.lora) - kept)
    return PeakMemory(
        base=base_bytes(facts, base_weights, precision),
        adapter=adapter_bytes(facts, recipe.lora, recipe.train),
        activations=round(kept),
        block=round(block),
        reserve=round(_CONTEXT * on_gpu + _FRAGMENTS * (kept + block)),
    )


def base_bytes(facts: BaseFacts, base_weights: BaseWeights, precision: Precision) -> int:
    """The frozen transformer; in 8 bits are the linear layers of blocks, with a scale each row."""
    count = base_parameters(facts)
    if base_weights == "as_is":
        return precision.word * (count.total + count.positions)
    rows = facts.layers * sum(size.outputs for size in block_linears(facts).values())
    return count.linears + precision.word * (count.rest + count.positions) + _FLOAT * rows


def adapter_bytes(facts: BaseFacts, lora: LoraConfig, train: TrainConfig) -> int:
    """16 bytes a parameter with AdamW: weight, gradient and two moments, all float32."""
    each = 2 * _FLOAT + _OPTIMISER_STATE[train.optimiser]
    each += _FLOAT * (train.ema_decay > 0)
    each += _FLOAT * (train.processes > 1)  # the buckets in which gradients are exchanged
    return round(each * adapter_parameters(facts, lora))


def block_saved(facts: BaseFacts, lora: LoraConfig, *, rows: int, precision: Precision) -> float:
    """Bytes that one block in the middle keeps for its backward pass, checkpointing apart.

    Args:
        facts: Of the base.
        lora: Which layers have adapters.
        rows: Tokens of the micro-batch.
        precision: In which numbers.
    """
    width, word, norm = facts.width, precision.word, precision.norm
    inside = {
        local_name(name): size
        for name, size in adapted_linears(facts, lora).items()
        if name.startswith(f"{BLOCK}{facts.layers // 2}.")
    }
    statistics = 2 * _FLOAT
    block_norms = 2 * (norm * width + statistics)
    head_norms = 2 * (norm * width + statistics * facts.heads)
    attention = 4 * word * width + _FLOAT * facts.heads
    activation = 4 * word * width
    each = block_norms + head_norms + attention + activation
    adapters = _adapter_inputs(inside, facts, lora.rank, precision)
    matrices = sum(size.adapter(lora.rank) for size in inside.values())
    cast = word * matrices if precision.mixed else 0
    return rows * (each + adapters) + cast


def _adapter_inputs(
    inside: dict[str, LinearSize], facts: BaseFacts, rank: int, precision: Precision
) -> float:
    """Bytes a token that the adapters of one block keep: what went in, and the narrow middle."""
    of_tokens = {name: size for name, size in inside.items() if not name.startswith("norm")}
    each = float(sum(rank * precision.adapter for _ in of_tokens))
    each += precision.adapter * sum(size.inputs for size in of_tokens.values())
    if precision.word == _FLOAT:
        # nothing is cast, so q, k and v keep one input
        queries = sum(name in of_tokens for name in ("attn1.to_q", "attn1.to_k", "attn1.to_v"))
        each -= max(queries - 1, 0) * _FLOAT * facts.width
    if len(of_tokens) < len(inside):
        # modulations that learn keep what they multiply: the norm's output, the branch's output
        learning = len(inside) - len(of_tokens)
        each += learning * (precision.norm + precision.word) * facts.width
    return each


def block_input(facts: BaseFacts, *, rows: int, precision: Precision) -> float:
    """Bytes that checkpointing keeps of a block, to compute it again from."""
    return float(rows * precision.word * facts.width)


def attention_output(facts: BaseFacts, *, rows: int, precision: Precision) -> float:
    """Bytes that selective checkpointing keeps besides: the output and each row's sum."""
    return float(rows * (precision.word * facts.width + _FLOAT * facts.heads))


def attention_scores(facts: BaseFacts, size: VideoSize, *, clips: int) -> float:
    """Bytes of what every token thinks of every other, in each head of one block.

    Only plain attention, "math", writes them down, in float32 whatever the precision: the softmax
    is kept for the backward pass, whose gradients are as large. Fused kernels never hold them.
    """
    return float(_FLOAT * clips * facts.heads * facts.tokens(size) ** 2)


def _block_gradients(facts: BaseFacts, *, rows: int, precision: Precision) -> float:
    """Bytes around the feed-forward layer besides what is kept, counted on a real block.

    Before and behind its activation are 4 D each; beside them the sum on both sides of the layer,
    under autocast once more in float32.
    """
    widths = 10 if precision.mixed else 8
    return float(rows * facts.width * precision.word * widths)


def _latents(facts: BaseFacts, size: VideoSize, *, clips: int) -> float:
    """Bytes of the latents, their noise, the target and the prediction."""
    latent = facts.compression.latent(size)
    numbers = facts.in_channels * latent.frames * latent.height * latent.width
    return float(clips * _LATENT_COPIES * _FLOAT * numbers)


def _unpacked(facts: BaseFacts, base_weights: BaseWeights, precision: Precision) -> float:
    """Bytes of the largest layer, brought back from 8 bits to be multiplied with."""
    if base_weights == "as_is":
        return 0.0
    largest = max(size.inputs * size.outputs for size in block_linears(facts).values())
    return float((_FLOAT + precision.word) * largest)  # multiplied with its scales in float32
