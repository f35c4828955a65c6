"""Beauty is VBench's definition on a head of ours; heads that are none are refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from cogvx.errors import ConfigError
from cogvx.metrics.aesthetic import open_aesthetic
from cogvx.metrics.encoders import open_encoder
from tests.metrics.networks import save_head

RGB = np.random.default_rng(4).integers(0, 256, size=(19, 40, 56, 3), dtype=np.uint8)


@pytest.fixture
def clip(networks):
    return open_encoder("clip", Path(networks["clip"]))


def test_beauty_is_the_mean_over_all_frames_of_a_linear_layer_on_unit_features(clip, networks):
    aesthetic = open_aesthetic(Path(networks["aesthetic"]), clip)
    features = torch.from_numpy(clip.features(RGB))
    head = load_file(Path(networks["aesthetic"]) / "head.safetensors")
    layer = torch.nn.Linear(16, 1)
    layer.load_state_dict({name: torch.from_numpy(value) for name, value in head.items()})
    with torch.no_grad():
        marks = layer(torch.nn.functional.normalize(features, dim=-1))
    assert aesthetic.score(features.numpy()) == pytest.approx(marks.mean().item() / 10, abs=1e-6)


def test_a_head_with_its_own_clip_needs_no_other(clip, networks, tmp_path):
    beside = open_aesthetic(Path(networks["aesthetic"]), clip)
    shutil.copytree(networks["clip"], tmp_path / "whole")
    save_head(tmp_path / "whole" / "head.safetensors")
    own = open_aesthetic(tmp_path / "whole", None)
    assert own.identity == beside.identity  # the same weights, wherever they lie
    rows = own.encoder.features(RGB)
    assert own.score(rows) == beside.score(rows)
    file = tmp_path / "alone.safetensors"
    shutil.copy(tmp_path / "whole" / "head.safetensors", file)
    assert open_aesthetic(file, clip).identity == own.identity


def test_heads_that_are_none_are_refused(clip, networks, tmp_path):
    pickled = tmp_path / "head.pth"
    pickled.write_bytes(b"PK")
    with pytest.raises(ConfigError, match="nothing is unpickled"):
        open_aesthetic(pickled, clip)
    with pytest.raises(ConfigError, match=r"has no head\.safetensors"):
        open_aesthetic(tmp_path, clip)
    with pytest.raises(ConfigError, match="no clip is named"):
        open_aesthetic(Path(networks["aesthetic"]), None)
    save_head(tmp_path / "wide.safetensors", width=768)
    with pytest.raises(ConfigError, match="is for features of 768, and its CLIP's have 16"):
        open_aesthetic(tmp_path / "wide.safetensors", clip)
    save_file({"weight": np.zeros((2, 16), np.float32)}, tmp_path / "two.safetensors")
    with pytest.raises(ConfigError, match=r"holds weight \[2, 16\]; it must be one linear layer"):
        open_aesthetic(tmp_path / "two.safetensors", clip)
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        open_aesthetic(tmp_path / "bad.safetensors", clip)
