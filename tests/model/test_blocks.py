"""What is computed again, and that neither that nor compiling changes a bit or a name."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cogvx.model import blocks
from cogvx.model.blocks import compile_blocks, recompute
from tests.model.steps import Step, flat_gradients, new_model


class Attentions(TorchDispatchMode):
    """Counts attention's forward and backward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "scaled_dot_product" in name:
            self.seen["backward" if "backward" in name else "forward"] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def kept(nano_base: Path) -> Tensor:
    """Gradients of the plain model."""
    return flat_gradients(new_model(nano_base), Step())


@pytest.mark.parametrize(("checkpointing", "times"), [("none", 1), ("selective", 1), ("full", 2)])
def test_attention_is_computed_again_in_full_only_and_gradients_are_the_same_bits(
    nano_base: Path, kept: Tensor, checkpointing: Any, times: int
) -> None:
    model = new_model(nano_base)
    recompute(model.transformer, checkpointing)
    with Attentions() as counted:
        found = flat_gradients(model, Step())
    layers = model.transformer.config.num_layers
    assert counted.seen == {"forward": layers * times, "backward": layers}
    assert torch.equal(found, kept)


@pytest.mark.parametrize("base_weights", ["as_is", "float8"])
def test_selective_keeps_attention_and_each_blocks_input_and_nothing_else(
    nano_base: Path, base_weights: Any
) -> None:
    saved = {}
    for checkpointing in ("full", "selective", "none"):
        model = new_model(nano_base, base_weights=base_weights)
        recompute(model.transformer, checkpointing)
        saved[checkpointing] = model.saved_bytes(Step())
    assert saved["full"] < 0.1 * saved["none"]
    assert saved["selective"] < 0.1 * saved["none"]  # what it keeps, it keeps outside autograd


@pytest.fixture
def _forgetful() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    limit = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


@pytest.mark.usefixtures("_forgetful")
@pytest.mark.parametrize(
    ("checkpointing", "backend", "layers", "base_weights"),
    [
        ("none", "eager", 3, "as_is"),
        ("selective", "aot_eager", 1, "as_is"),
        ("full", "aot_eager", 1, "float8"),
    ],
)
def test_compiled_blocks_have_no_graph_break_one_graph_for_all_layers_and_the_same_bits(
    nano_base: Path, checkpointing: Any, backend: str, layers: int, base_weights: Any
) -> None:
    plain, model = (
        new_model(nano_base, layers=layers, base_weights=base_weights) for _ in range(2)
    )
    names = list(model.transformer.state_dict())
    compile_blocks(model.transformer, checkpointing, sizes=2, backend=backend)
    assert torch.equal(flat_gradients(model, Step()), flat_gradients(plain, Step()))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == min(layers, 2)  # the first block's input needs no gradient
    assert not torch._dynamo.utils.counters["graph_break"]
    assert list(model.transformer.state_dict()) == names


@pytest.mark.usefixtures("_forgetful")
def test_one_graph_more_than_was_allowed_is_an_error_and_not_silently_slow(
    nano_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.config.recompile_limit = 1
    monkeypatch.setattr(blocks, "_GRAPHS_OF_A_SIZE", 1)
    model = new_model(nano_base, layers=2)
    compile_blocks(model.transformer, "none", sizes=1, backend="eager")
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        flat_gradients(model, Step())
