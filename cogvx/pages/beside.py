"""Videos beside each other in one file, for a viewer that plays one at a time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cogvx.mp4 import read_mp4, write_mp4
from cogvx.pages.pictures import scaled

_BAR, _GAP, _INK, _PAPER = 28, 4, "#1a202c", "#ffffff"
# A smaller video is enlarged pixel by pixel, or nobody could see it.
_LEAST_HEIGHT, _LEAST_WIDTH = 240, 240


def videos_beside(sides: Sequence[tuple[str, Path]], path: Path) -> None:
    """Write one mp4 of several videos, in the order given; the shortest decides the length.

    Args:
        sides: A name and a file each; of one size, as those of one prompt are.
        path: Replaced as a whole.

    Raises:
        DataError: A file is no video.
    """
    videos = [read_mp4(file) for _, file in sides]
    height, width = videos[0].rgb_fhwc.shape[1:3]
    times = max(1, -(-_LEAST_HEIGHT // height), -(-_LEAST_WIDTH // width))
    height, width = times * height, times * width
    across = (width + _GAP) * len(videos) - _GAP
    # yuv420p halves both sides
    shape = (height + _BAR + height % 2, across + across % 2)
    frames = []
    for number in range(min(len(video.rgb_fhwc) for video in videos)):
        picture = Image.new("RGB", shape[::-1], _PAPER)
        draw = ImageDraw.Draw(picture)
        for place, ((name, _), video) in enumerate(zip(sides, videos, strict=True)):
            left = place * (width + _GAP)
            draw.text((left + 4, 4), name, fill=_INK, font=ImageFont.load_default(16))
            picture.paste(scaled(video.rgb_fhwc[number], width, height), (left, _BAR))
        frames.append(np.asarray(picture))
    write_mp4(path, np.stack(frames), fps=round(videos[0].fps))
