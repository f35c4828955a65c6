"""Shape arithmetic against the published figures of every variant."""

from collections import Counter

import pytest

from cogvx.shapes import (
    Compression,
    CropRule,
    VideoSize,
    cover_and_crop,
    frames_to_prepend,
    video_tokens,
)
from cogvx.variants import PUBLISHED

COMPRESSION = Compression(temporal=4, spatial=8)


@pytest.mark.parametrize(
    ("frames", "latent", "padded"), [(49, 13, 14), (81, 21, 22), (85, 22, 22), (161, 41, 42)]
)
def test_latent_frames_and_their_padding(frames: int, latent: int, padded: int) -> None:
    size = COMPRESSION.latent(VideoSize(frames, 480, 720))
    assert size.frames == latent
    assert size.frames + frames_to_prepend(size.frames, 2) == padded
    assert frames_to_prepend(size.frames, None) == 0


def test_padding_completes_groups_of_three() -> None:
    assert [frames_to_prepend(frames, 3) for frames in (3, 4, 5)] == [0, 2, 1]


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [
        ("CogVideoX-2b", VideoSize(49, 480, 720), 17_776),
        ("CogVideoX-5b", VideoSize(49, 480, 720), 17_776),
        ("CogVideoX1.5-5B", VideoSize(81, 768, 1360), 45_106),
        ("CogVideoX1.5-5B", VideoSize(85, 768, 1360), 45_106),
        ("CogVideoX1.5-5B", VideoSize(161, 768, 1360), 85_906),
    ],
)
def test_tokens_match_the_published_counts(name: str, size: VideoSize, tokens: int) -> None:
    assert PUBLISHED[name].tokens(size) == tokens


def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="48 frames"):
        COMPRESSION.latent(VideoSize(48, 480, 720))
    with pytest.raises(ValueError, match="multiple of 8"):
        COMPRESSION.latent(VideoSize(49, 480, 724))


@pytest.mark.parametrize(("height", "width"), [(270, 480), (480, 270), (1080, 1920), (100, 100)])
def test_a_crop_keeps_the_aspect_and_covers_the_target(height: int, width: int) -> None:
    target = VideoSize(49, 96, 128)
    crop = cover_and_crop(height, width, target)
    assert crop.height >= target.height
    assert crop.width >= target.width
    assert crop.height == target.height or crop.width == target.width
    assert crop.height / height == pytest.approx(crop.width / width, rel=0.01)
    assert 0 <= crop.top <= crop.height - target.height
    assert 0 <= crop.left <= crop.width - target.width


@pytest.mark.parametrize("free", [0, 1, 2, 7, 32])
def test_a_cut_takes_every_place_equally_often_and_the_middle_is_the_middle(free: int) -> None:
    target = VideoSize(9, 64, 64)
    for height, width in ((64, 64 + free), (64 + free, 64)):
        middle = cover_and_crop(height, width, target)
        assert (middle.top, middle.left) == ((height - 64) // 2, (width - 64) // 2)
        places = Counter()
        for number in range(1, 10 * (free + 1) + 1):
            share = number / (10 * (free + 1))
            cut = cover_and_crop(height, width, target, CropRule(share, share))
            places[cut.top + cut.left] += 1
        assert places == dict.fromkeys(range(free + 1), 10)


def test_a_size_is_read_as_it_is_written_and_latents_know_theirs() -> None:
    size = VideoSize(49, 480, 720)
    assert VideoSize.parse(str(size)) == size
    assert COMPRESSION.video(COMPRESSION.latent(size)) == size
    for text in ("49x480", "49x480x720x3", "x480x720", "0x480x720", " 49x480x720", "49X480X720"):
        with pytest.raises(ValueError, match="is not frames x height x width, as in 49x480x720"):
            VideoSize.parse(text)


def test_video_tokens_count_patches() -> None:
    latent = COMPRESSION.latent(VideoSize(9, 64, 96))
    assert video_tokens(latent, 2, None) == 3 * 4 * 6
    assert video_tokens(latent, 2, 2) == 2 * 4 * 6
