"""Networks are folders or commits of the hub; whatever else is named is refused, all at once."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cogvx.errors import ConfigError
from cogvx.metrics.encoder_files import encoder_problems
from cogvx.metrics.encoder_set import open_encoder_set
from tests.metrics.networks import WIDTH
from tests.model.hub import COMMIT, Hub

RGB = np.random.default_rng(5).integers(0, 256, size=(3, 40, 56, 3), dtype=np.uint8)


def told(encoders, **options):
    return [str(problem) for problem in encoder_problems(encoders, **options)]


def test_folders_that_have_everything_are_fine(networks):
    assert told(networks) == []
    assert told({"clip": f"openai/clip-vit-base-patch32@{'0' * 40}"}) == []


def test_everything_that_is_wrong_is_told_at_once(networks, tmp_path):
    shutil.copytree(networks["clip"], tmp_path / "clip", ignore=shutil.ignore_patterns("tok*"))
    found = told(
        {
            "clip": str(tmp_path / "clip"),
            "dino": "facebook/dino-vitb16",
            "dinov2": "facebook/dinov2-base@main",
            "siglip2": str(tmp_path),
            "vgg": str(tmp_path),
            "aesthetic": str(tmp_path / "absent.safetensors"),
        }
    )
    text = "\n".join(found)
    assert len(found) == 6
    assert "has no tokenizer.json" in found[0]
    assert "use facebook/dino-vitb16@ and the 40 digits of the commit" in found[1]
    assert 'evaluation.encoders.dinov2 = "facebook/dinov2-base@main" is neither' in found[2]
    assert "has no config.json and no model.safetensors and no tokenizer.json" in found[3]
    assert "evaluation.encoders.vgg is of no kind; use one of dino, dinov2, clip" in found[4]
    assert "is not a folder on this machine" in text
    with pytest.raises(ConfigError, match=r"6 problem\(s\)"):
        open_encoder_set({"clip": "a/b", "dino": "a/b", **dict.fromkeys("vwxy", "a/b")})


def test_what_may_be_absent_is_not_asked_for_but_commits_are(tmp_path):
    absent = {"clip": str(tmp_path / "clip"), "dino": "facebook/dino-vitb16"}
    found = told(absent, absent_is_fine=True)
    assert len(found) == 1
    assert "the 40 digits of the commit" in found[0]


def test_a_head_alone_needs_a_clip_whose_texts_nobody_reads(networks, tmp_path):
    head = {"aesthetic": networks["aesthetic"]}
    assert "no clip is named" in told(head)[0]
    shutil.copytree(networks["clip"], tmp_path / "clip", ignore=shutil.ignore_patterns("tok*"))
    beside = {**head, "clip": str(tmp_path / "clip")}
    assert len(told(beside)) == 1
    assert told(beside, texts=False) == []


def test_a_set_has_all_networks_and_says_what_each_is(networks):
    opened = open_encoder_set(networks)
    assert set(opened.images) == {"dino", "dinov2", "clip", "siglip2"}
    assert set(opened.texts) == {"clip", "siglip2"}
    assert set(opened.identities) == {*networks, "clip texts", "siglip2 texts"}
    assert len(set(opened.identities.values())) == 7
    assert opened.images["clip"].features(RGB).shape == (3, WIDTH)
    unread = open_encoder_set({"clip": networks["clip"]}, texts=False)
    assert unread.texts == {}
    assert unread.identities == {"clip": opened.identities["clip"]}


_RESOLVE = """
import sys
from cogvx.metrics.encoder_files import resolve_encoder
print(resolve_encoder("clip", sys.argv[1]))
print("torch" in sys.modules)
"""


def test_a_network_of_the_hub_is_the_one_of_its_commit(networks, tmp_path):
    with Hub(Path(networks["clip"])) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "PYTHONPATH": "."}
        command = [sys.executable, "-c", _RESOLVE, f"me/nano@{COMMIT}"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=120
        )
    folder, loads_torch = done.stdout.splitlines()
    assert loads_torch == "False"
    assert Path(folder).name == COMMIT
    found, own = (open_encoder_set({"clip": path}) for path in (folder, networks["clip"]))
    assert found.identities == own.identities
    fetched = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert fetched == {"config.json", "model.safetensors", "tokenizer.json"}
