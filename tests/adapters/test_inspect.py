"""The description of adapter files, ours and those of other programs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvx.adapters.card import ADAPTER_FILE
from cogvx.adapters.export import export_adapter
from cogvx.adapters.inspect import describe
from cogvx.errors import IntegrityError
from tests.adapters.toys import toy_card, trained


@pytest.fixture(scope="module")
def ours(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    return export_adapter(trained(nano_base, rank=8, alpha=4), folder, card=toy_card())


def rewritten(file: Path, folder: Path, rename: tuple[str, str] = ("", "")) -> Path:
    """The file without metadata, with a part of its names replaced."""
    tensors = {name.replace(*rename): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, folder / ADAPTER_FILE)
    return folder / ADAPTER_FILE


def test_our_file_loads_at_one_and_keeps_what_it_was_trained_with(
    ours: Path, nano_base: Path
) -> None:
    found = describe(ours)
    transformer = trained(nano_base, rank=8, alpha=4)
    assert found.format == "diffusers"
    assert (found.rank, found.loaded_alpha, found.strength) == (8, 8.0, 1.0)
    assert found.card is not None
    assert (found.card.rank, found.card.alpha) == (8, 4)
    assert found.layers == transformer.config.num_layers
    assert found.modules == 4 * found.layers
    assert found.problems == ()


def test_norms_are_those_of_what_the_trained_adapter_adds(ours: Path, nano_base: Path) -> None:
    found = describe(ours)
    transformer = trained(nano_base, rank=8, alpha=4)
    for number, block in enumerate(transformer.transformer_blocks):
        parts = (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v, block.attn1.to_out[0])
        deltas = torch.cat([part.get_delta_weight("default").flatten() for part in parts])
        assert found.norms[number] == pytest.approx(float(deltas.detach().norm()), rel=1e-5)


def test_a_file_without_metadata_is_told_to_load_at_one(ours: Path, tmp_path: Path) -> None:
    found = describe(rewritten(ours, tmp_path))
    assert found.strength == 1.0
    assert found.card is None
    assert found.problems == ("alpha is not recorded: it loads at 1.0, whatever it was trained at",)


def test_the_alpha_that_metadata_names_is_the_strength(ours: Path, tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": '{"transformer.r": 8, "transformer.lora_alpha": 2}'}
    save_file(load_file(ours), tmp_path / ADAPTER_FILE, metadata=metadata)
    found, as_trained = describe(tmp_path / ADAPTER_FILE), describe(ours)
    assert found.strength == 0.25
    assert found.norms[0] == pytest.approx(0.25 * as_trained.norms[0])


def test_a_file_that_a_pipeline_would_ignore_says_so(ours: Path, tmp_path: Path) -> None:
    found = describe(rewritten(ours, tmp_path, ("transformer.t", "t")))
    assert found.format == "unprefixed"
    assert found.strength is None
    assert "loads nothing" in found.problems[0]


def test_names_of_kohya_are_recognised(tmp_path: Path) -> None:
    module = "lora_unet__transformer_blocks_3_attn1_to_q"
    tensors = {
        f"{module}.lora_down.weight": torch.ones(4, 6),
        f"{module}.lora_up.weight": torch.ones(6, 4),
        f"{module}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, tmp_path / ADAPTER_FILE)
    found = describe(tmp_path / ADAPTER_FILE)
    assert (found.format, found.rank, found.modules, found.layers) == ("kohya", 4, 1, 1)
    assert len(found.problems) == 1


def test_faults_are_listed_together(ours: Path, tmp_path: Path) -> None:
    tensors = load_file(ours)
    tensors["transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"][0, 0] = float("inf")
    del tensors["transformer.transformer_blocks.1.attn1.to_k.lora_B.weight"]
    save_file(tensors, tmp_path / ADAPTER_FILE)
    problems = describe(tmp_path / ADAPTER_FILE).problems
    assert [problem.split(":")[0] for problem in problems] == [
        "alpha is not recorded",
        "1 matrices have no partner",
        "1 modules are not finite",
    ]


def test_a_file_of_something_else_is_described_as_unknown(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / ADAPTER_FILE)
    found = describe(tmp_path / ADAPTER_FILE)
    assert (found.format, found.rank, found.modules) == ("unknown", None, 0)
    assert found.problems == ("names are of no kind that is known",)


def test_metadata_that_cannot_be_read_is_refused(ours: Path, tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": "not json"}
    save_file(load_file(ours), tmp_path / ADAPTER_FILE, metadata=metadata)
    with pytest.raises(IntegrityError, match="lora_adapter_metadata"):
        describe(tmp_path / ADAPTER_FILE)
