"""How the transformer's blocks are run: what the backward pass computes again, and compiled or not.

A block keeps some twenty times its input for the backward pass. "full" keeps the input alone and
computes the block again; "selective" keeps what attention gave as well, which is a twentieth of the
block's memory and, at the sizes of video, most of its time.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from cogvx.recipe_sections import Checkpointing

# Each is one operation to autograd; the "math" kernel is several, which are computed again, since
# keeping its table of tokens by tokens is what nobody can afford.
_ATTENTION = {
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_fused_attention_overrideable",
    )
}
_GRAPHS_OF_A_SIZE = 4  # the first block and the others, with and without gradients


def recompute(transformer: CogVideoXTransformer3DModel, checkpointing: Checkpointing) -> None:
    """Choose what the backward pass computes again; gradients are the same to the last bit."""
    if checkpointing == "none":
        transformer.disable_gradient_checkpointing()
    else:
        transformer.enable_gradient_checkpointing(_RECOMPUTED[checkpointing])


def compile_blocks(
    transformer: CogVideoXTransformer3DModel,
    checkpointing: Checkpointing,
    *,
    sizes: int,
    backend: str = "inductor",
) -> None:
    """Compile a block once for each size, and use that for every block; names stay as they are.

    What is computed again is decided inside the compiled part, where the compiler sees it.

    Args:
        transformer: With its adapter; nothing may be attached to it afterwards.
        checkpointing: As in `recompute`, which this includes.
        sizes: Different shapes that a run will meet: more recompilations than those are an error,
            where torch would quietly go on without.
        backend: Of torch.compile.
    """
    # private in name only: torch documents it for this, and offers no other way
    config: Any = torch._dynamo.config  # noqa: SLF001
    config.recompile_limit = max(config.recompile_limit, sizes * _GRAPHS_OF_A_SIZE)
    how: dict[str, Any] = {"backend": backend, "dynamic": False, "fullgraph": True}
    for block in transformer.transformer_blocks:
        block.compile(**how)
    if checkpointing == "none":
        recompute(transformer, "none")
    else:
        compiled = torch.compile(_RECOMPUTED[checkpointing], **how)
        transformer.enable_gradient_checkpointing(compiled)


def _keep_attention(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    keep = operation in _ATTENTION
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def _contexts() -> Any:
    make: Any = create_selective_checkpoint_contexts  # torch gives it no types
    return make(_keep_attention)


def _run_full(block: nn.Module, *inputs: Any) -> tuple[Tensor, Tensor]:
    output: tuple[Tensor, Tensor] = checkpoint(
        block, *inputs, use_reentrant=False, preserve_rng_state=False
    )
    return output


def _run_selective(block: nn.Module, *inputs: Any) -> tuple[Tensor, Tensor]:
    output: tuple[Tensor, Tensor] = checkpoint(
        block, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=_contexts
    )
    return output


# Nothing in a block is random: its dropout is 0, and so is the adapter's.
_RECOMPUTED: dict[Checkpointing, Callable[..., tuple[Tensor, Tensor]]] = {
    "full": _run_full,
    "selective": _run_selective,
}
