"""Consistency by real networks at toy size equals VBench's definition, written out in numpy."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from cogvx.errors import ConfigError, IntegrityError
from cogvx.metrics.consistency import consistency
from cogvx.metrics.encoders import open_encoder
from cogvx.metrics.features import features_key, features_of
from cogvx.metrics.preparation import clip_frames, dino_frames
from cogvx.store import MemoryStore

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
RGB = np.random.default_rng(0).integers(0, 256, size=(5, 48, 72, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    dinov2 = {key: value for key, value in TINY.items() if key != "intermediate_size"}
    models = {
        "dino": ViTModel(ViTConfig(**TINY), add_pooling_layer=False),
        "dinov2": Dinov2Model(Dinov2Config(**dinov2)),
        "clip": CLIPVisionModelWithProjection(CLIPVisionConfig(**TINY, projection_dim=16)),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
    return root


def resize_axis(values, axis, size, kernel, factor=None):
    """Interpolate one axis at half-pixel centres, edges repeated, without antialiasing."""
    extent = values.shape[axis]
    centres = (np.arange(size) + 0.5) / (factor or size / extent) - 0.5
    first = np.floor(centres).astype(int)
    total = 0.0
    for step in range(-1, 3):
        weight = kernel(np.abs(centres - (first + step)))
        shape = [1] * values.ndim
        shape[axis] = size
        picked = np.take(values, np.clip(first + step, 0, extent - 1), axis=axis)
        total = total + picked * weight.reshape(shape)
    return total


def linear(distance):
    return np.maximum(1 - distance, 0)


def cubic(distance, a=-0.75):
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


@pytest.mark.parametrize(("height", "width"), [(48, 72), (72, 48), (31, 53), (20, 20)])
def test_frames_are_prepared_as_vbench_describes(height, width):
    rgb = np.random.default_rng(1).integers(0, 256, size=(2, 3, height, width)).astype(np.float64)
    short = min(height, width)
    size = int(32 * height / short), int(32 * width / short)
    plain = resize_axis(resize_axis(rgb, 2, size[0], linear), 3, size[1], linear) / 255
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (plain - mean[:, None, None]) / deviation[:, None, None]
    found = dino_frames(torch.from_numpy(rgb).float(), 32).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)
    plain = resize_axis(resize_axis(rgb, 2, size[0], cubic), 3, size[1], cubic) / 255
    top, left = (round((extent - 32) / 2.0) for extent in size)
    plain = plain[:, :, top : top + 32, left : left + 32]
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    deviation = np.array([0.26862954, 0.26130258, 0.27577711])
    expected = (plain - mean[:, None, None]) / deviation[:, None, None]
    found = clip_frames(torch.from_numpy(rgb).float(), 32).numpy()
    assert found.shape == (2, 3, 32, 32)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_consistency_is_vbenchs():
    features = np.random.default_rng(2).normal(size=(7, 5)).astype(np.float32)
    total = 0.0
    unit = [row / np.sqrt((row**2).sum()) for row in features.astype(float)]
    for now in range(1, 7):
        total += (max(0, unit[now] @ unit[now - 1]) + max(0, unit[now] @ unit[0])) / 2
    assert consistency(features) == pytest.approx(total / 6, abs=1e-9)
    assert consistency(features[:1].repeat(4, axis=0)) == pytest.approx(1.0)
    assert consistency(features[:1]) == 1.0


@pytest.mark.parametrize("kind", ["dino", "dinov2", "clip"])
def test_features_are_the_networks_own_frame_by_frame(folders, kind):
    encoder = open_encoder(kind, folders / kind)
    found = encoder.features(RGB)
    frames = torch.from_numpy(RGB).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        if kind == "clip":
            model = CLIPVisionModelWithProjection.from_pretrained(folders / kind).eval()
            expected = model(clip_frames(frames, 32)).image_embeds
        elif kind == "dinov2":
            model = Dinov2Model.from_pretrained(folders / kind).eval()
            expected = model(dino_frames(frames, 224)).last_hidden_state[:, 0]
        else:
            square = np.ascontiguousarray(RGB[:, :, :48])
            found = encoder.features(square)
            model = ViTModel.from_pretrained(folders / kind, add_pooling_layer=False).eval()
            frames = frames[:, :, :, :48]
            expected = model(dino_frames(frames, 32)).last_hidden_state[:, 0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_dinos_positions_are_interpolated_by_its_authors_factor(folders):
    embeddings = open_encoder("dino", folders / "dino").model.embeddings
    found = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + 4 * 6, 32), 32, 48)
    table = embeddings.position_embeddings[0].numpy().astype(np.float64)
    grid = table[1:].reshape(4, 4, 32)
    rows = resize_axis(grid, 0, 4, cubic, factor=4.1 / 4)
    expected = resize_axis(rows, 1, 6, cubic, factor=6.1 / 4).reshape(24, 32)
    np.testing.assert_allclose(found[0, 1:].numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(found[0, 0].numpy(), table[0].astype(np.float32))


def test_dino_sees_frames_that_are_not_square_whole(folders):
    encoder = open_encoder("dino", folders / "dino")
    changed = RGB.copy()
    changed[:, :, -8:] = 0
    assert not np.allclose(encoder.features(RGB), encoder.features(changed))


def test_features_are_computed_once_for_a_file_and_a_network(folders):
    store = MemoryStore()
    encoder = open_encoder("clip", folders / "clip")
    first = features_of(lambda: RGB, "a" * 64, encoder=encoder, store=store)
    np.testing.assert_array_equal(first, encoder.features(RGB))
    # other frames under the same name: what comes back was not computed
    again = features_of(lambda: RGB[::-1], "a" * 64, encoder=encoder, store=store)
    np.testing.assert_array_equal(again, first)
    other = open_encoder("dinov2", folders / "dinov2")
    keys = {features_key(name * 64, used) for name in "ab" for used in (encoder, other)}
    assert len(keys) == 4
    assert features_key("a" * 64, open_encoder("clip", folders / "clip")) in keys


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_another_version_of_what_runs_a_network_makes_it_another(library, folders, monkeypatch):
    before = open_encoder("clip", folders / "clip").identity
    assert open_encoder("clip", folders / "clip").identity == before
    monkeypatch.setattr(f"cogvx.metrics.encoders.{library}.__version__", "9.9.9")
    assert open_encoder("clip", folders / "clip").identity != before


def test_damaged_features_are_refused(folders):
    store = MemoryStore()
    encoder = open_encoder("clip", folders / "clip")
    features_of(lambda: RGB, "a" * 64, encoder=encoder, store=store)
    key = features_key("a" * 64, encoder)
    data = store.read(key)
    for bad in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b"", b"[]\n"):
        store.write(key, bad)
        with pytest.raises(IntegrityError, match="damaged"):
            features_of(lambda: RGB, "a" * 64, encoder=encoder, store=store)


def test_what_is_no_such_network_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.json and no model\.safetensors"):
        open_encoder("clip", tmp_path)
    with pytest.raises(ConfigError, match="of no kind"):
        open_encoder("vgg", folders / "clip")
    for name, content, told in (
        ("config.json", "{", "cannot be read"),
        ("config.json", "[]", "of the type None"),
        ("model.safetensors", "no weights", "cannot be loaded"),
    ):
        folder = tmp_path / told
        shutil.copytree(folders / "clip", folder)
        (folder / name).write_text(content)
        with pytest.raises(ConfigError, match=told):
            open_encoder("clip", folder)
    with pytest.raises(ConfigError, match="of the type clip_vision_model, not vit"):
        open_encoder("dino", folders / "clip")


def test_networks_without_all_their_weights_are_refused(folders, tmp_path):
    shutil.copytree(folders / "clip", tmp_path / "clip")
    file = tmp_path / "clip" / "model.safetensors"
    tensors = load_file(file)
    del tensors["visual_projection.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights, such as visual_projection\.weight"):
        open_encoder("clip", tmp_path / "clip")


def test_features_that_are_not_finite_are_refused_and_not_kept(folders, tmp_path):
    shutil.copytree(folders / "clip", tmp_path / "clip")
    file = tmp_path / "clip" / "model.safetensors"
    tensors = load_file(file)
    tensors["visual_projection.weight"][0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    encoder, store = open_encoder("clip", tmp_path / "clip"), MemoryStore()
    with pytest.raises(IntegrityError, match="not finite"):
        features_of(lambda: RGB, "a" * 64, encoder=encoder, store=store)
    assert not store.objects
