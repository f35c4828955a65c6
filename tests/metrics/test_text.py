"""Texts and frames meet as the whole networks of transformers say, and no text is cut."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from transformers import CLIPModel, PreTrainedTokenizerFast, SiglipImageProcessor, SiglipModel
from transformers.utils import logging as transformers_logging

from cogvx.errors import ConfigError
from cogvx.metrics.encoders import open_encoder
from cogvx.metrics.preparation import clip_frames, siglip_frames
from cogvx.metrics.similarity import mean_cosine
from cogvx.metrics.text import open_text_encoder

RGB = np.random.default_rng(3).integers(0, 256, size=(4, 48, 72, 3), dtype=np.uint8)
TEXT = "a large red circle rises"


def whole(kind, networks):
    """The network in one piece, and what it makes of a text by transformers' own tokenizer."""
    model = {"clip": CLIPModel, "siglip2": SiglipModel}[kind].from_pretrained(networks[kind])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(Path(networks[kind]) / "tokenizer.json"), pad_token="<pad>"
    )
    filling = {"padding": "max_length", "max_length": 64} if kind == "siglip2" else {}
    return model.eval(), tokenizer(TEXT, return_tensors="pt", **filling).input_ids


def plain(output):
    """transformers 5 wraps what transformers 4 returns."""
    return getattr(output, "pooler_output", output).numpy()


@pytest.mark.parametrize("kind", ["clip", "siglip2"])
def test_both_halves_are_those_of_the_whole_network(kind, networks):
    model, ids = whole(kind, networks)
    prepare = {"clip": clip_frames, "siglip2": siglip_frames}[kind]
    pixels = prepare(torch.from_numpy(RGB).permute(0, 3, 1, 2).float(), 32)
    with torch.no_grad():
        texts = plain(model.get_text_features(input_ids=ids))
        images = plain(model.get_image_features(pixel_values=pixels))
    reader = open_text_encoder(kind, Path(networks[kind]))
    seer = open_encoder(kind, Path(networks[kind]))
    np.testing.assert_allclose(reader.features(TEXT), texts[0], atol=1e-6)
    np.testing.assert_allclose(seer.features(RGB), images, atol=1e-6)
    assert reader.identity != seer.identity
    expected = cosine_similarity(images, texts).mean()
    found = mean_cosine(seer.features(RGB), reader.features(TEXT))
    assert found == pytest.approx(expected, abs=1e-6)


def test_siglip_sees_frames_as_its_own_processor_prepares_them():
    processor = SiglipImageProcessor(size={"height": 32, "width": 32}, resample=2)
    theirs = processor(list(RGB), return_tensors="np")["pixel_values"]
    ours = siglip_frames(torch.from_numpy(RGB).permute(0, 3, 1, 2).float(), 32).numpy()
    # it rounds to whole grey levels, of which one is 2 / 255 here
    assert np.abs(ours - theirs).max() <= 2 / 255


def test_siglip_reads_small_letters_and_always_64_tokens(networks):
    reader = open_text_encoder("siglip2", Path(networks["siglip2"]))
    ids = reader.tokens.ids("A Large RED circle")
    assert ids == reader.tokens.ids("a large red circle")
    assert len(ids) == 64
    assert ids[4] == 1  # the end mark, after which all is filling
    assert set(ids[5:]) == {0}
    assert not np.array_equal(reader.features("a red circle"), reader.features("a blue circle"))


@pytest.mark.parametrize(("kind", "limit", "marks"), [("clip", 77, 2), ("siglip2", 64, 1)])
def test_a_text_is_read_to_its_end_or_refused(kind, limit, marks, networks):
    reader = open_text_encoder(kind, Path(networks[kind]))
    longest = " ".join(["red"] * (limit - marks))
    assert reader.features(longest).shape == reader.features("red").shape
    with pytest.raises(
        ConfigError, match=rf"has {limit + 1} tokens, of which {kind} reads {limit}"
    ):
        reader.features(longest + " circle")


def test_a_vocabulary_that_cannot_be_is_refused(networks, tmp_path):
    for name, content in (("none", None), ("text", "no json"), ("list", "[]"), ("other", "{}")):
        folder = tmp_path / name
        shutil.copytree(networks["clip"], folder)
        (folder / "tokenizer.json").unlink()
        if content is not None:
            (folder / "tokenizer.json").write_text(content)
        with pytest.raises(ConfigError, match=r"tokenizer"):
            open_text_encoder("clip", folder)


def test_a_vocabulary_without_its_marks_is_refused(networks, tmp_path):
    for kind, told in (("clip", "puts 0 marks around a text"), ("siglip2", "lacks <eos>")):
        shutil.copytree(networks[kind], tmp_path / kind)
        file = tmp_path / kind / "tokenizer.json"
        document = json.loads(file.read_text())
        document["post_processor"] = None
        if kind == "siglip2":  # its marks are put whatever the file says, if it has them
            file.write_text(json.dumps(document))
            found = open_text_encoder(kind, tmp_path / kind).features(TEXT)
            own = open_text_encoder(kind, Path(networks[kind])).features(TEXT)
            np.testing.assert_array_equal(found, own)
            document["model"]["vocab"]["<end>"] = document["model"]["vocab"].pop("<eos>")
        file.write_text(json.dumps(document))
        with pytest.raises(ConfigError, match=told):
            open_text_encoder(kind, tmp_path / kind)


def test_a_half_is_loaded_without_a_word_on_the_other(networks, capfd):
    level = transformers_logging.get_verbosity()
    open_text_encoder("clip", Path(networks["clip"]))
    open_encoder("siglip2", Path(networks["siglip2"]))
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.get_verbosity() == level


def test_a_half_takes_the_width_that_the_whole_network_has(networks):
    # its own configuration says 512, which is what transformers fills in
    config = json.loads((Path(networks["clip"]) / "config.json").read_text())
    assert config["text_config"].get("projection_dim") != config["projection_dim"]
    assert open_text_encoder("clip", Path(networks["clip"])).features("red").shape == (16,)
    assert open_encoder("clip", Path(networks["clip"])).features(RGB).shape == (4, 16)
