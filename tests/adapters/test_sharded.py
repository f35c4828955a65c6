"""Weights in files as diffusers lays them out: read by diffusers, and what lies is refused."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cogvx.adapters.container import read_header
from cogvx.adapters.sharded import INDEX, WEIGHTS, reader, stored_tensors, write_tensors
from cogvx.errors import ConfigError, IntegrityError

TENSORS = {
    "odd": torch.arange(3, dtype=torch.float16),
    "scalar": torch.tensor(2.5),
    "wide": torch.arange(6, dtype=torch.float64).reshape(2, 3),
    "half": torch.arange(5, dtype=torch.bfloat16),
    "number": torch.tensor([7], dtype=torch.int64),
    "empty": torch.zeros(0, 4),
}


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """The same type, shape and bits."""
    return (
        first.dtype == second.dtype and first.shape == second.shape and torch.equal(first, second)
    )


def copied(source: Path, target: Path, *, shard_bytes: int) -> None:
    target.mkdir()
    stored = stored_tensors(source)
    with reader(stored) as read:
        write_tensors(target, stored, shard_bytes=shard_bytes, read=read)


@pytest.mark.parametrize("shard_bytes", [1, 30, 10**6])
def test_every_type_comes_back_with_its_bits(tmp_path: Path, shard_bytes: int) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    save_file(TENSORS, source / WEIGHTS)
    copied(source, target, shard_bytes=shard_bytes)
    found = {}
    for file in target.glob("*.safetensors"):
        found |= load_file(file)
        with safe_open(file, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    assert found.keys() == TENSORS.keys()
    assert all(same(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("size", ["100KB", "1MB", "1GB"])
def test_what_diffusers_cuts_into_shards_comes_back_whole_and_the_other_way(
    nano_base: Path, tmp_path: Path, size: str
) -> None:
    model = CogVideoXTransformer3DModel.from_pretrained(nano_base, subfolder="transformer")
    model.save_pretrained(tmp_path / "cut", max_shard_size=size)
    copied(tmp_path / "cut", tmp_path / "whole", shard_bytes=10**9)
    assert [file.name for file in (tmp_path / "whole").iterdir()] == [WEIGHTS]
    expected = model.state_dict()
    found = load_file(tmp_path / "whole" / WEIGHTS)
    assert found.keys() == expected.keys()
    assert all(same(found[name], expected[name]) for name in expected)

    copied(tmp_path / "whole", tmp_path / "again", shard_bytes=600_000)
    files = sorted((tmp_path / "again").glob("*.safetensors"))
    index = json.loads((tmp_path / "again" / INDEX).read_bytes())
    assert index["metadata"]["total_size"] == sum(
        tensor.numel() * tensor.element_size() for tensor in expected.values()
    )
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert files[0].name == f"diffusion_pytorch_model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        held = sum(info.num_bytes for info in read_header(file).tensors.values())
        assert held <= 600_000 or len(read_header(file).tensors) == 1


def test_a_shard_that_is_gone_is_named(nano_base: Path, tmp_path: Path) -> None:
    copied(nano_base / "transformer", tmp_path / "cut", shard_bytes=10**6)
    gone = sorted((tmp_path / "cut").glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(IntegrityError, match=f"lacks 1 shards, such as {gone.name}"):
        stored_tensors(tmp_path / "cut")


def test_an_index_that_does_not_agree_with_its_shards_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.mkdir()
    save_file({"x": torch.ones(2)}, source / "one.safetensors")
    (source / INDEX).write_text(json.dumps({"weight_map": {"y": "one.safetensors"}}))
    with pytest.raises(IntegrityError, match="do not agree on 2 tensors, such as y"):
        stored_tensors(source)


@pytest.mark.parametrize(
    "index",
    ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"x": "../x.safetensors"}}'],
)
def test_an_index_of_something_else_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(IntegrityError, match="is no index of shards"):
        stored_tensors(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no diffusion_pytorch_model"):
        stored_tensors(tmp_path)
