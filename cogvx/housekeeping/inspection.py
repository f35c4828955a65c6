"""Look into one record: what it was made from, and its picture beside the source's. Loads torch."""

import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cogvx.cache.keys import ImageKey, LatentKey, PromptKey
from cogvx.cache.plan import Identities
from cogvx.cache.records import unpack
from cogvx.cache.seal import read_label
from cogvx.data.decode import decode_clip
from cogvx.data.manifest import Clip, Manifest
from cogvx.data.windows import crop_rule
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, IntegrityError
from cogvx.housekeeping.lookup import key_from
from cogvx.model.encode import decibels, decode_latents, to_pixels
from cogvx.model.load import load_vae
from cogvx.mp4 import write_mp4
from cogvx.store import ObjectStore
from cogvx.variants import DType

# Small videos are enlarged pixel by pixel, so that their labels fit above them.
_NARROWEST = 240
_BAR, _GAP, _FONT_SIZE = 24, 8, 14
_INK, _PAPER = "#ffffff", "#1a202c"
_CRF = 12


@dataclass(frozen=True)
class Bench:
    """What a record is looked at with: the base that made it, and where clips come from."""

    base: Path
    ids: Identities
    device: str
    manifest: Manifest
    dataset: ObjectStore
    work: Path


@dataclass(frozen=True)
class Record:
    """A verified record: its tensor, and the key with everything that it was made from."""

    name: str
    bytes: int
    tensor: Tensor
    key: LatentKey | ImageKey | PromptKey

    def facts(self) -> list[tuple[str, str]]:
        """What it is and what it was made from, for people."""
        kind = str(self.tensor.dtype).removeprefix("torch.")
        shape = "x".join(map(str, self.tensor.shape))
        rows = [("record", self.name), ("tensor", f"{shape} {kind}, {self.bytes:,} bytes")]
        if isinstance(self.key, ImageKey):
            own = {"draw": self.key.draw, "noise": self.key.noise, "version": self.key.version}
            made = {**own, **{f"window.{n}": v for n, v in _plain(self.key.window).items()}}
        else:
            made = _plain(self.key)
        return rows + [("made from", f"{name} = {value}") for name, value in made.items()]


@dataclass(frozen=True)
class Beside:
    """A record's picture, and the source's if it was found.

    `psnr` is in dB over all frames, `worst` that of the worst frame; None without a source.
    """

    decoded_fhwc: np.ndarray
    source_fhwc: np.ndarray | None
    source: str
    fps: int
    psnr: float | None
    worst: float | None


def read_record(store: ObjectStore, path: str, name: str) -> Record:
    """Read a record, verified.

    Raises:
        IntegrityError: It is absent, damaged, or made by another version of cogvx.
    """
    data = store.read(path)
    tensor = unpack(data, name)
    return Record(name, len(data), tensor, key_from(read_label(data), name))


def decode_beside_source(record: Record, bench: Bench) -> Beside:
    """Decode latents with the VAE that made them, beside the window that they were made of.

    The posterior's mean is decoded: what is seen is the loss of the VAE, not its noise.

    Raises:
        ConfigError: The record has no picture, or the base has another VAE.
        DataError: The clip cannot be decoded.
        TransientError: The dataset did not answer this time.
    """
    key = record.key
    if isinstance(key, PromptKey):
        raise ConfigError(f"record {record.name} is of a caption and has no picture")
    window = key.window if isinstance(key, ImageKey) else key
    decoded_cfhw = _decode(record.tensor, window, bench)
    source_cfhw, said = _source(window, bench)
    if source_cfhw is None:
        return Beside(to_pixels(decoded_cfhw), None, said, window.fps, None, None)
    source_cfhw = source_cfhw[:, : decoded_cfhw.shape[1]]
    errors_f = (decoded_cfhw - source_cfhw).square().mean(dim=(0, 2, 3))
    return Beside(
        decoded_fhwc=to_pixels(decoded_cfhw),
        source_fhwc=to_pixels(source_cfhw),
        source=said,
        fps=window.fps,
        psnr=decibels(errors_f.mean().item()),
        worst=decibels(errors_f.max().item()),
    )


def write_beside(path: Path, record: Record, beside: Beside) -> None:
    """Write an mp4: source on the left, record on the right, each with its label above."""
    quality = "" if beside.psnr is None else f" {beside.psnr:.1f} dB"
    sides = [(f"record {record.name[:8]}{quality}", beside.decoded_fhwc)]
    if beside.source_fhwc is not None:
        sides.insert(0, ("source", beside.source_fhwc))
    video = np.concatenate([_labelled(words, rgb_fhwc) for words, rgb_fhwc in sides], axis=2)
    _, height, width, _ = video.shape
    even = np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, even, fps=beside.fps, crf=_CRF, metadata={"comment": record.name})


def _decode(moments_cfhw: Tensor, window: LatentKey, bench: Bench) -> Tensor:
    if window.vae_fingerprint != bench.ids.vae:
        raise ConfigError(
            f"the record was made by VAE {window.vae_fingerprint[:12]}, but {bench.base} has "
            f"{bench.ids.vae[:12]}; name a recipe whose base made it"
        )
    vae = load_vae(
        bench.base,
        dtype=cast("DType", window.dtype),  # a key's dtype was a recipe's
        device=bench.device,
        tiling=window.tiling,
    )
    mean_bcfhw = moments_cfhw.float().chunk(2)[0][None] * vae.config.scaling_factor
    return decode_latents(vae, mean_bcfhw)[0].float().cpu()


def _source(window: LatentKey, bench: Bench) -> tuple[Tensor | None, str]:
    """The window's pixels in [-1, 1] and the clip's key, or nothing and the reason."""
    clips = [clip for clip in bench.manifest.clips if clip.sha256 == window.source_sha256]
    if not clips:
        wanted = window.source_sha256[:12]
        return None, f"no clip of {bench.dataset.url} has the bytes {wanted} that it was made of"
    clip = clips[0].model_copy(
        update={"start_frame": window.start_frame, "crop": window.crop, "size": window.size}
    )
    bench.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        try:
            path = bench.dataset.fetch(clip.key, Path(folder))
        except IntegrityError as error:
            return None, str(error)
        if sha256_file(path) != window.source_sha256:
            return None, f"{clip.key} has changed since; run `cogvx cache` to see it anew"
        return _decode_window(path, clip, window), clip.key


def _decode_window(path: Path, clip: Clip, window: LatentKey) -> Tensor:
    return decode_clip(
        path,
        start_frame=window.start_frame,
        size=window.size,
        fps=window.fps,
        crop=crop_rule(clip),
        flip=window.flip,
    )


def _plain(key: LatentKey | PromptKey) -> dict[str, object]:
    made = asdict(key)
    return {**made, "size": str(key.size)} if isinstance(key, LatentKey) else made


def _labelled(words: str, rgb_fhwc: np.ndarray) -> np.ndarray:
    """The video enlarged if it is small, with a bar of words above and a gap on both sides."""
    times = max(1, math.ceil(_NARROWEST / rgb_fhwc.shape[2]))
    large = rgb_fhwc.repeat(times, axis=1).repeat(times, axis=2)
    bar = Image.new("RGB", (large.shape[2], _BAR), _PAPER)
    font = ImageFont.load_default(_FONT_SIZE)
    ImageDraw.Draw(bar).text((4, 3), words, fill=_INK, font=font)
    bars = np.broadcast_to(np.asarray(bar), (len(large), *np.asarray(bar).shape))
    gap = ((0, 0), (0, 0), (_GAP // 2, _GAP // 2), (0, 0))
    return np.pad(np.concatenate([bars, large], axis=1), gap)
