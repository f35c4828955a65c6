"""SSIM against the paper's formula in scipy, and what it does where videos do not fit."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import correlate1d

from cogvx.errors import DataError
from cogvx.metrics.ssim import similarity

MIDDLES_OF_17 = (0, 2, 4, 6, 8, 10, 12, 15)
LUMA = np.array([0.2126, 0.7152, 0.0722])


def scene(seed, frames=17, height=40, width=56):
    """Smooth blobs that drift, as pictures have them."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:height, :width]
    waves = [
        np.sin(down * rng.uniform(0.05, 0.4) + across * rng.uniform(0.05, 0.4) + phase)
        for phase in rng.uniform(0, 6, (frames, 1, 1, 3)).reshape(frames, 3)[:, 0]
    ]
    grey = 127 + 80 * np.stack(waves)
    return np.repeat(grey[..., None], 3, axis=3).clip(0, 255).astype(np.uint8)


def ssim_of_paper(one_hw, other_hw):
    """Wang et al. 2004, equation 13, over windows that lie in the picture."""
    reach = np.arange(-5, 6)
    window = np.exp(-(reach**2) / (2 * 1.5**2))
    window /= window.sum()

    def blurred(picture):
        return correlate1d(correlate1d(picture, window, axis=0), window, axis=1)[5:-5, 5:-5]

    mean_x, mean_y = blurred(one_hw), blurred(other_hw)
    var_x = blurred(one_hw**2) - mean_x**2
    var_y = blurred(other_hw**2) - mean_y**2
    cov = blurred(one_hw * other_hw) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return found.mean()


@pytest.mark.parametrize("noise", [0, 5, 40])
def test_it_is_the_papers_formula_on_the_middle_frames(noise):
    one = scene(1)
    shake = np.random.default_rng(2).normal(0, noise, one.shape)
    other = (one + shake).clip(0, 255).astype(np.uint8)
    expected = np.mean(
        [ssim_of_paper(np.rint(one[n] @ LUMA), np.rint(other[n] @ LUMA)) for n in MIDDLES_OF_17]
    )
    assert similarity(one, other) == pytest.approx(expected, abs=1e-4)


def test_it_falls_from_one_as_videos_part():
    one = scene(3)
    rng = np.random.default_rng(4)
    found = [
        similarity(one, (one + rng.normal(0, noise, one.shape)).clip(0, 255).astype(np.uint8))
        for noise in (0, 4, 16, 64)
    ]
    assert found[0] == pytest.approx(1.0, abs=1e-6)
    assert found == sorted(found, reverse=True)
    assert similarity(one, scene(5)) < 0.5


@pytest.mark.parametrize(("frames", "height", "width"), [(9, 40, 56), (17, 40, 48), (17, 10, 56)])
def test_videos_that_cannot_be_compared_are_told(frames, height, width):
    ours = scene(1) if height > 10 else scene(1, 17, 10, 56)
    with pytest.raises(DataError, match=f"17x.* and {frames}x{height}x{width} cannot be compared"):
        similarity(ours, scene(1, frames, height, width))


def test_a_control_machine_reads_suites_without_any_of_it():
    code = (
        "import sys, cogvx.evaluation.suite; "
        "sys.exit(any(heavy in sys.modules for heavy in ('torch', 'torchmetrics')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
