"""What a person looks at before training goes on: the first batch as videos and pictures."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cogvx import files
from cogvx.mp4 import write_mp4
from cogvx.pages.pictures import FRAME_GAP, SMALL_SIDE, data_uri, png, scaled, spread, strip
from cogvx.pages.template import render_template

PICTURE, PAGE = "first_batch.png", "index.html"

_FRAMES = 6
_LABELS, _GAP, _HEAD, _LINE = 380, 16, 76, 20
_ENLARGED, _REDUCED = 130, 200  # about how high small frames are shown, how wide large ones
_INK, _FAINT, _BAD, _PAPER, _RULE = "#1a202c", "#5a6472", "#b91c1c", "#ffffff", "#d9dee6"


@dataclass(frozen=True)
class Proof:
    """One sample of the first batch.

    Attributes:
        name: The clip's key.
        caption: What its record of a caption was made from.
        caption_kept: Whether it is trained with it, or dropout took it.
        timestep: Drawn for it.
        noise: Share of the noise in what the transformer sees, `sqrt(1 - a)`.
        record: Name of the record of its latents.
        size: Frames x height x width.
        clean_fhwc: Its latents decoded, as drawn from the posterior.
        noised_fhwc: The first of them with their noise.
        first_hwc: For image-to-video bases what it starts from, black where that is hidden.
        source_fhwc: The frames of the clip itself; None where they are not at hand.
        source_absent: Why.
        psnr: Of the decoded frames against the source's, in dB.
        fits: Whether they are of that source.
    """

    name: str
    caption: str
    caption_kept: bool
    timestep: int
    noise: float
    record: str
    size: str
    clean_fhwc: np.ndarray
    noised_fhwc: np.ndarray
    first_hwc: np.ndarray | None
    source_fhwc: np.ndarray | None
    source_absent: str
    psnr: float | None
    fits: bool

    @property
    def verdict(self) -> str:
        """What the comparison with the source says."""
        if self.psnr is None:
            return f"not compared with its source: {self.source_absent}"
        if not self.fits:
            return f"{self.psnr:.1f} dB: does not look like its source"
        return f"{self.psnr:.1f} dB against its source"

    @property
    def said(self) -> str:
        """What the transformer is told to draw."""
        return self.caption if self.caption_kept else f"(caption dropped) {self.caption}"

    @property
    def level(self) -> str:
        """How far it is noised."""
        return f"timestep {self.timestep}, noise {self.noise:.2f}"

    def strips(self) -> list[tuple[str, np.ndarray]]:
        """What is shown, from the clip to what the transformer sees."""
        rows = [("source", self.source_fhwc), ("decoded latents", self.clean_fhwc)]
        if self.first_hwc is not None:
            shown = "first frame given" if self.first_hwc.any() else "first frame hidden"
            rows.append((shown, self.first_hwc[None]))
        rows.append((f"noised, first {len(self.noised_fhwc)} frames", self.noised_fhwc))
        return [(words, frames) for words, frames in rows if frames is not None]


def write_proof(folder: Path, proofs: Sequence[Proof], *, title: str, note: str, fps: int) -> None:
    """Write a video for each sample, the page and the picture; the folder is whole or absent."""

    def fill(aside: Path) -> None:
        for number, proof in enumerate(proofs):
            write_mp4(
                aside / f"clip-{number}.mp4",
                proof.clean_fhwc,
                fps=fps,
                metadata={"title": proof.caption, "comment": f"{proof.level}; {proof.record}"},
            )
        (aside / PICTURE).write_bytes(picture(proofs, title=title, note=note))
        page = render_template(
            "cogvx.training",
            "first_batch.html.jinja",
            title=title,
            note=note,
            clips=[_clip(proof, aside / f"clip-{n}.mp4") for n, proof in enumerate(proofs)],
        )
        (aside / PAGE).write_text(page, encoding="utf-8")

    files.write_folder(folder, fill)


def picture(proofs: Sequence[Proof], *, title: str, note: str) -> bytes:
    """All samples in one PNG: words on the left, strips of frames on the right."""
    blocks = [_block(proof) for proof in proofs]
    width = max(block.width for block in blocks)
    height = _HEAD + sum(block.height + 2 * _GAP for block in blocks)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 14), title, fill=_INK, font=_font(24))
    draw.text((_GAP, 46), note, fill=_FAINT, font=_font(15))
    top = _HEAD
    for block in blocks:
        draw.line((_GAP, top, width - _GAP, top), fill=_RULE)
        sheet.paste(block, (0, top + _GAP))
        top += block.height + 2 * _GAP
    return png(sheet)


def _block(proof: Proof) -> Image.Image:
    strips = proof.strips()
    width, line = _shown_size(proof.clean_fhwc.shape[2], proof.clean_fhwc.shape[1])
    words = [
        *((text, _INK, 16) for text in _wrapped(proof.said, 44, lines=10)),
        (proof.level, _FAINT, 15),
        *(
            (text, _FAINT if proof.fits else _BAD, 15)
            for text in _wrapped(proof.verdict, 46, lines=4)
        ),
        *((text, _FAINT, 15) for text in _wrapped(proof.name, 46, lines=2)),
        (f"{proof.size}, record {proof.record[:12]}", _FAINT, 15),
    ]
    tall = max((line + _LINE + _GAP) * len(strips) - _GAP, 22 * len(words))
    across = _LABELS + (width + FRAME_GAP) * _FRAMES + _GAP
    block = Image.new("RGB", (across, tall), _PAPER)
    draw = ImageDraw.Draw(block)
    for row, (text, colour, size) in enumerate(words):
        draw.text((_GAP, 22 * row), text, fill=colour, font=_font(size))
    for row, (text, rgb_fhwc) in enumerate(strips):
        top = (line + _LINE + _GAP) * row
        draw.text((_LABELS, top), text, fill=_FAINT, font=_font(13))
        for number, rgb_hwc in enumerate(spread(rgb_fhwc, _FRAMES)):
            left = _LABELS + (width + FRAME_GAP) * number
            block.paste(scaled(rgb_hwc, width, line), (left, top + _LINE))
    return block


def _shown_size(width: int, height: int) -> tuple[int, int]:
    """Small frames enlarged in whole steps, so that each pixel stays one; large ones reduced."""
    times = round(_ENLARGED / height)
    if times > 1:
        return width * times, height * times
    shown = min(width, _REDUCED)
    return shown, max(1, round(height * shown / width))


def _clip(proof: Proof, video: Path) -> dict[str, object]:
    return {
        "proof": proof,
        "video": data_uri("video/mp4", video.read_bytes()),
        "strips": [(words, strip(frames)) for words, frames in proof.strips()],
        "tiny": min(proof.clean_fhwc.shape[1:3]) < SMALL_SIDE,
    }


def _wrapped(words: str, width: int, lines: int) -> list[str]:
    return textwrap.wrap(words, width, max_lines=lines, placeholder=" ...")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
