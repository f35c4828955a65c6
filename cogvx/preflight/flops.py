"""How much arithmetic one update takes: matrix products alone, a multiply-add counted as two.

The base is frozen, so of its layers the backward pass computes the gradient of what went in and
nothing else; an adapter needs both. Nothing flows back past the first adapter. Attention's backward
pass is five products where the forward pass is two, as the fused kernels work.

Letters: D is the transformer's width, S the tokens of a clip, text included.

Source: torch `torch.utils.flop_counter`, which counts the same way.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cogvx.adapters.linears import BLOCK, block_linears, local_name, other_linears
from cogvx.preflight.parameters import adapted_linears
from cogvx.recipe_sections import Checkpointing, LoraConfig
from cogvx.variants import PATCH_PROJECTION, BaseFacts

_ATTENTION_BACKWARD = 2.5  # of the forward pass


@dataclass(frozen=True)
class Flops:
    """Arithmetic of one forward and backward pass.

    Attributes:
        linear: Forward, matrix products with weights, adapters included.
        attention: Forward, products of tokens with tokens.
        linear_backward: Gradients through weights, and of the adapters' own.
        attention_backward: Gradients through attention.
        recomputed: What checkpointing computes a second time.
    """

    linear: float
    attention: float
    linear_backward: float
    attention_backward: float
    recomputed: float

    @property
    def forward(self) -> float:
        """One look at a batch, as the held-out loss takes it."""
        return self.linear + self.attention

    @property
    def total(self) -> float:
        """Forward, backward and what is computed again."""
        return self.forward + self.linear_backward + self.attention_backward + self.recomputed


def pass_flops(
    facts: BaseFacts, lora: LoraConfig, *, tokens: int, clips: int, checkpointing: Checkpointing
) -> Flops:
    """Arithmetic of one forward and backward pass over a micro-batch.

    Args:
        facts: Of the base.
        lora: The adapter's shape.
        tokens: Of one clip, as `BaseFacts.tokens` gives them.
        clips: In the micro-batch.
        checkpointing: What is computed again.
    """
    walk = _Walk(facts, lora)
    scores = 4.0 * clips * tokens**2 * facts.width
    for stage in _stages(facts, clips=clips, tokens=tokens):
        walk.through(stage, scores=scores)
    again = {"full": walk.inside + walk.attention, "selective": walk.inside, "none": 0.0}
    return Flops(
        linear=walk.linear,
        attention=walk.attention,
        linear_backward=walk.linear_backward,
        attention_backward=walk.attention_backward,
        recomputed=again[checkpointing],
    )


@dataclass(frozen=True)
class _Stage:
    """Linear layers side by side, each over `rows` vectors.

    `of_time` reads the embedded timestep rather than tokens; `into_time` is part of embedding it;
    `then_attends` is followed by attention.
    """

    names: tuple[str, ...]
    rows: int
    of_time: bool = False
    into_time: bool = False
    then_attends: bool = False


def _stages(facts: BaseFacts, *, clips: int, tokens: int) -> Iterator[_Stage]:
    """The transformer's linear layers in the order of its forward pass."""
    rows, text_rows = clips * tokens, clips * facts.text_tokens
    yield _Stage(("patch_embed.text_proj",), text_rows)
    yield _Stage((PATCH_PROJECTION,), rows - text_rows)
    for name in other_linears(facts):
        if "_embedding." in name:
            yield _Stage((name,), clips, of_time=True, into_time=True)
    for layer in range(facts.layers):
        block = f"{BLOCK}{layer}."
        yield _Stage((f"{block}norm1.linear",), clips, of_time=True)
        queries = tuple(f"{block}attn1.to_{letter}" for letter in "qkv")
        yield _Stage(queries, rows, then_attends=True)
        yield _Stage((f"{block}attn1.to_out.0",), rows)
        yield _Stage((f"{block}norm2.linear",), clips, of_time=True)
        yield _Stage((f"{block}ff.net.0.proj",), rows)
        yield _Stage((f"{block}ff.net.2",), rows)
    yield _Stage(("norm_out.linear",), clips, of_time=True)
    yield _Stage(("proj_out",), rows - text_rows)


class _Walk:
    """Adds up on the way through the model, and knows where a gradient will pass."""

    def __init__(self, facts: BaseFacts, lora: LoraConfig) -> None:
        self.linear = self.inside = self.linear_backward = 0.0
        self.attention = self.attention_backward = 0.0
        self._sizes = {**block_linears(facts), **other_linears(facts)}
        self._adapted = adapted_linears(facts, lora).keys()
        self._rank = lora.rank
        self._tokens_learn = self._time_learns = False

    def through(self, stage: _Stage, *, scores: float) -> None:
        """Count a stage, and the attention behind it with its `scores` FLOPs."""
        passes = self._time_learns if stage.of_time else self._tokens_learn
        for name in stage.names:
            self._count(name, stage.rows, passes=passes)
        learns = passes or any(name in self._adapted for name in stage.names)
        if stage.into_time:
            self._time_learns |= learns
        else:
            self._tokens_learn |= learns
        if stage.then_attends:
            self.attention += scores
            self.attention_backward += _ATTENTION_BACKWARD * scores * self._tokens_learn

    def _count(self, name: str, rows: int, *, passes: bool) -> None:
        size = self._sizes[local_name(name)]
        weights = size.inputs * size.outputs
        forward, backward = weights, weights * passes
        if name in self._adapted:
            down, up = self._rank * size.inputs, self._rank * size.outputs
            forward += down + up
            backward += down * (1 + passes) + 2 * up
        self.linear += 2.0 * rows * forward
        self.linear_backward += 2.0 * rows * backward
        if name.startswith(BLOCK):
            self.inside += 2.0 * rows * forward
