"""Metrics of pixels equal their written definitions, computed another way."""

import itertools

import numpy as np
import pytest
import torch

from cogvx.metrics.pixels import (
    brightness,
    changes,
    colours,
    contrast,
    sanity_faults,
    saturation,
    temporal_flickering,
)
from cogvx.metrics.registry import measure
from cogvx.metrics.viewed import Viewed
from cogvx.mp4 import Mp4, read_mp4


@pytest.fixture(scope="module")
def real_rgb_fhwc(world_clips):
    return read_mp4(min(world_clips.glob("*.mp4"))).rgb_fhwc


def test_temporal_flickering_is_vbenchs(real_rgb_fhwc):
    # As VBench walks: one mean absolute difference per pair of frames, then their mean.
    frames = [torch.from_numpy(frame.copy()).double() for frame in real_rgb_fhwc]
    pairs = [(a - b).abs().mean().item() for a, b in itertools.pairwise(frames)]
    expected = (255.0 - float(np.mean(pairs))) / 255.0
    assert temporal_flickering(changes(real_rgb_fhwc)) == pytest.approx(expected, abs=1e-9)


def test_a_frozen_video_flickers_least():
    frozen = np.repeat(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(1, 48, 48, 3), 5, axis=0)
    assert temporal_flickering(changes(frozen)) == 1.0
    assert temporal_flickering(changes(frozen[:1])) == 1.0


def random_video(kind):
    """Videos of odd sizes: all values, only bright ones, and grey ones."""
    rng = np.random.default_rng(len(kind))
    shape, low = (3, 37, 61, 3), 250 if kind == "bright" else 0
    video = rng.integers(low, 256, size=shape, dtype=np.uint8)
    return video[..., :1].repeat(3, axis=-1) if kind == "grey" else video


@pytest.mark.parametrize("kind", ["real", "any", "bright", "grey"])
def test_colours_equal_their_definitions_in_float64(kind, real_rgb_fhwc):
    rgb_fhwc = real_rgb_fhwc if kind == "real" else random_video(kind)
    exact = rgb_fhwc.astype(np.float64)
    luma = exact @ np.array([0.2126, 0.7152, 0.0722])
    assert brightness(colours(rgb_fhwc)) == pytest.approx(luma.mean(), abs=1e-9)
    spread = luma.std(axis=(1, 2)).mean()
    assert contrast(colours(rgb_fhwc)) == pytest.approx(spread, abs=1e-9)
    high, low = exact.max(axis=3), exact.min(axis=3)
    vivid = ((high - low) / np.maximum(high, 1)).mean()
    assert saturation(rgb_fhwc) == pytest.approx(vivid, abs=1e-12)
    found = colours(rgb_fhwc)
    assert np.array_equal(found.mean_fc, exact.mean(axis=(1, 2)))
    for frame, covariance_cc in zip(exact, found.covariance_fcc, strict=True):
        assert np.allclose(covariance_cc, np.cov(frame.reshape(-1, 3).T, bias=True), atol=1e-9)


def test_what_metrics_share_is_computed_once_and_changes_no_number(real_rgb_fhwc, monkeypatch):
    video = Mp4(real_rgb_fhwc, 8.0)
    alone = {name: measure(video, [name])[name] for name in measure(video)}
    viewed = Viewed.of(video)
    assert Viewed.of(viewed) is viewed
    assert measure(viewed) == alone
    assert viewed.sanity_faults == ()
    monkeypatch.setattr("cogvx.metrics.pixels.colours", None)  # kept: nobody asks again
    monkeypatch.setattr("cogvx.metrics.pixels.changes", None)
    monkeypatch.setattr("cogvx.metrics.motion.speeds", None)
    assert measure(viewed) == alone
    assert viewed.sanity_faults == ()


def test_colours_are_measured_on_known_pictures():
    red = np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert saturation(red) == pytest.approx(1.0)
    assert brightness(colours(red)) == pytest.approx(255 * 0.2126, rel=1e-5)
    assert contrast(colours(red)) == pytest.approx(0.0, abs=1e-4)
    halves = np.zeros((2, 8, 8, 3), np.uint8)
    halves[:, :4] = 255
    assert contrast(colours(halves)) == pytest.approx(127.5, rel=1e-5)
    assert brightness(colours(halves)) == pytest.approx(127.5, rel=1e-5)
    assert saturation(halves) == 0.0


def faults_of(rgb_fhwc):
    return sanity_faults(changes(rgb_fhwc), colours(rgb_fhwc))


def test_worthless_videos_are_found(real_rgb_fhwc):
    assert faults_of(real_rgb_fhwc) == ()
    black = np.zeros_like(real_rgb_fhwc)
    assert any("black" in fault for fault in faults_of(black))
    assert any("frozen" in fault for fault in faults_of(real_rgb_fhwc[:1].repeat(4, axis=0)))
    grey = np.stack([np.full((48, 48, 3), 100 + step, np.uint8) for step in range(4)])
    assert any("flat" in fault for fault in faults_of(grey))
    red = grey.copy()
    red[..., ::2, 0] = 200  # stripes in one channel are a picture
    assert faults_of(red) == ()
    nearly_black = black + np.uint8(5)
    assert faults_of(nearly_black)[0] == "is one flat colour"
