"""Grey copies against numpy's own arithmetic: no frame without variance pretends to be alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from cogvx.metrics.features import features_key
from cogvx.metrics.luma import Thumbnails, luma_rows, mean_difference

MIDDLES_OF_49 = (2, 8, 14, 20, 26, 32, 38, 45)


def noise(seed, frames=49, height=32, width=48):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def grey(seed, low=0, high=256):
    rng = np.random.default_rng(seed)
    return rng.integers(low, high, (8, 256)).astype(np.float32)


def test_a_thumbnail_is_the_mean_luma_of_sixteenths_of_the_middle_frames():
    rgb_fhwc = noise(0)
    luma_fhw = rgb_fhwc[list(MIDDLES_OF_49)] @ np.array([0.2126, 0.7152, 0.0722])
    expected = luma_fhw.reshape(8, 16, 2, 16, 3).mean(axis=(2, 4)).reshape(8, 256)
    found = Thumbnails().features(rgb_fhwc)
    assert found.shape == (8, 256)
    assert np.abs(found - expected).max() <= 1.0, "both steps round to whole grey levels"
    assert np.array_equal(found, np.rint(found))


@pytest.mark.parametrize("tool", ["_DECODING", "av.__version__", "cv2.__version__"])
def test_whatever_decodes_or_resizes_otherwise_gives_others(tool, monkeypatch):
    before = features_key("a" * 64, Thumbnails())
    monkeypatch.setattr(f"cogvx.metrics.identity.{tool}", "9.9.9")
    assert features_key("a" * 64, Thumbnails()) != before


@pytest.mark.parametrize("frames", [1, 5, 9, 49])
def test_every_video_has_eight_whatever_its_length_and_size(frames):
    assert Thumbnails().features(noise(1, frames, 10, 34)).shape == (8, 256)


def test_products_of_rows_are_pearsons_correlations():
    one, other = grey(1).astype(float), grey(2, 90, 120).astype(float)
    found = luma_rows(one) @ luma_rows(other).T
    expected = [[pearsonr(ours, theirs)[0] for theirs in other] for ours in one]
    assert found == pytest.approx(np.array(expected), abs=1e-12)


@settings(max_examples=50)
@given(
    gain=st.floats(0.1, 4.0), offset=st.floats(-80, 80), seed=st.integers(0, 99), flip=st.booleans()
)
def test_brightness_and_contrast_change_no_likeness_and_a_negative_is_none(
    gain, offset, seed, flip
):
    rows = luma_rows(grey(seed))
    changed = luma_rows((-gain if flip else gain) * grey(seed) + offset)
    assert (rows * changed).sum(axis=1) == pytest.approx(np.full(8, -1.0 if flip else 1.0))


@settings(max_examples=50)
@given(level=st.integers(0, 255), ripple=st.integers(0, 1), seed=st.integers(0, 99))
def test_flat_frames_resemble_nothing_not_even_themselves(level, ripple, seed):
    flat = np.clip(level + ripple * np.random.default_rng(seed).integers(-1, 2, (8, 256)), 0, 255)
    assert luma_rows(flat.astype(np.float32)).shape == (0, 256)
    half = np.concatenate([flat[:4], grey(0)[4:]]).astype(np.float32)
    assert np.array_equal(luma_rows(half), luma_rows(grey(0))[4:])


def test_noise_of_the_coder_on_flat_frames_is_no_likeness():
    """The same grey with other rounding would otherwise correlate at random, up to 1."""
    rng = np.random.default_rng(0)
    shades = [(128 + rng.normal(0, 3, (49, 96, 144, 3))).astype(np.uint8) for _ in range(2)]
    assert not any(len(luma_rows(Thumbnails().features(each))) for each in shades)


def test_variety_is_the_mean_of_all_pairs():
    videos = [grey(seed) for seed in range(4)]
    pairs = [
        np.mean(np.abs(videos[i] - videos[j])) / 255 for i in range(4) for j in range(4) if i != j
    ]
    assert mean_difference(videos) == pytest.approx(np.mean(pairs), rel=1e-6)
    assert mean_difference(videos[:1]) is None
    assert mean_difference([]) is None


def test_a_collapsed_model_has_no_variety_whatever_it_collapsed_to():
    flat = [np.full((8, 256), 7.0, np.float32)] * 3
    assert mean_difference(flat) == 0.0
    assert mean_difference([grey(1)] * 3) == 0.0
    assert mean_difference([grey(1, 0, 30), grey(2, 0, 30)]) < mean_difference([grey(1), grey(2)])


def test_variety_knows_when_things_happen():
    """The mean picture over time would be the same for both directions."""
    ramp = np.zeros((8, 256), np.float32)
    for frame in range(8):
        ramp[frame, 32 * frame : 32 * frame + 32] = 255
    assert mean_difference([ramp, ramp[::-1]]) == pytest.approx(2 / 8)
