"""The linear layers of a base's transformer: how many features go in, and how many come out.

Source: diffusers `CogVideoXTransformer3DModel`, `CogVideoXBlock`, `CogVideoXPatchEmbed`.
"""

from dataclasses import dataclass

from cogvx.adapters.layout import linear_modules
from cogvx.variants import PATCH_PROJECTION, BaseFacts

BLOCK = "transformer_blocks."
_FEED_FORWARD = 4  # times the width


@dataclass(frozen=True)
class LinearSize:
    """Features that go into a linear layer, and that come out."""

    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Weights and biases; every linear layer of a CogVideoX has both."""
        return (self.inputs + 1) * self.outputs

    def adapter(self, rank: int) -> int:
        """Parameters of the two matrices that stand beside it; they have no biases."""
        return rank * (self.inputs + self.outputs)


def block_linears(facts: BaseFacts) -> dict[str, LinearSize]:
    """Linear layers of one block, by the ends of their names."""
    width, time = facts.width, facts.time_dim
    inner = _FEED_FORWARD * width
    square, modulation = LinearSize(width, width), LinearSize(time, 6 * width)
    return {
        "attn1.to_q": square,
        "attn1.to_k": square,
        "attn1.to_v": square,
        "attn1.to_out.0": square,
        "ff.net.0.proj": LinearSize(width, inner),
        "ff.net.2": LinearSize(inner, width),
        "norm1.linear": modulation,
        "norm2.linear": modulation,
    }


def other_linears(facts: BaseFacts) -> dict[str, LinearSize]:
    """Linear layers around the blocks, by their full names.

    The projection of patches counts as one; in 1.0 it is a convolution that does the same work.
    """
    width, time = facts.width, facts.time_dim
    area = facts.patch**2 * (facts.patch_t or 1)
    embedding = {"time_embedding.linear_1": LinearSize(width, time)}
    if facts.variant.has_ofs:
        embedding["ofs_embedding.linear_1"] = LinearSize(time, time)
        embedding["ofs_embedding.linear_2"] = LinearSize(time, time)
    return {
        PATCH_PROJECTION: LinearSize(facts.in_channels * area, width),
        "patch_embed.text_proj": LinearSize(facts.text_dim, width),
        **embedding,
        "time_embedding.linear_2": LinearSize(time, time),
        "norm_out.linear": LinearSize(time, 2 * width),
        "proj_out": LinearSize(width, facts.out_channels * area),
    }


def linear_sizes(facts: BaseFacts) -> dict[str, LinearSize]:
    """Every linear layer that an adapter may be beside, by its full name, in the model's order."""
    inside, around = block_linears(facts), other_linears(facts)
    names = linear_modules(facts.layers, patch_t=facts.patch_t)
    return {name: inside.get(local_name(name)) or around[name] for name in names}


def local_name(name: str) -> str:
    """Name of a layer as its block knows it; of a layer outside the blocks, its own."""
    return name.split(".", 2)[2] if name.startswith(BLOCK) else name
