"""What is known of a base: always its configuration, its bytes only where all of them are."""

import json
import shutil
from pathlib import Path

import pytest

from cogvx.adapters.base import find_base
from cogvx.errors import ConfigError
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.variants import read_facts


def test_a_published_base_needs_not_be_on_this_machine() -> None:
    found = find_base("zai-org/CogVideoX-2b", "a-revision-that-nobody-has")
    assert (found.facts.layers, found.fingerprint) == (30, None)
    for path in ("somebody/model", "no such folder", "a/b/c", "x" * 5000, "\0"):
        with pytest.raises(ConfigError, match="neither a folder on this machine nor a published"):
            find_base(path)


def test_a_folder_is_named_by_its_bytes_once_all_its_weights_are_there(
    nano_base: Path, tmp_path: Path
) -> None:
    whole = find_base(str(nano_base))
    assert whole.facts == read_facts(nano_base)
    assert whole.fingerprint == fingerprint(nano_base, BASE_PARTS)
    part = tmp_path / "part"
    shutil.copytree(nano_base, part)
    weights = part / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("shard-1.safetensors"))
    index = part / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "shard-1.safetensors", "b": "shard-2"}}))
    assert find_base(str(part)).fingerprint is None
    index.write_text(json.dumps({"weight_map": {"a": "shard-1.safetensors"}}))
    assert find_base(str(part)).fingerprint is not None
    index.write_text("[]")
    with pytest.raises(ConfigError, match="names no files of weights"):
        find_base(str(part))
    index.unlink()
    weights.with_name("shard-1.safetensors").unlink()
    assert find_base(str(part)).fingerprint is None


def test_a_revision_means_nothing_for_a_folder(nano_base: Path) -> None:
    with pytest.raises(ConfigError, match='--revision = "main" means nothing for a folder'):
        find_base(str(nano_base), "main")
