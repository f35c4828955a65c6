"""Clips made for tests: plain ones, and the odd ones that real folders hold."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth grey picture, uint8 `hwc`, whose mean brightness tells its number (modulo 60)."""
    rows, columns = np.mgrid[:height, :width]
    plane = 20 + 3.5 * (number % 60) + 10 * rows / height + 8 * columns / width
    return np.stack([plane] * 3, axis=-1).round().clip(0, 255).astype(np.uint8)


def numbers_of(rgb_cfhw: np.ndarray) -> np.ndarray:
    """The numbers of the pictures, read back from a decoded clip in [-1, 1]."""
    plane = (rgb_cfhw[0].mean(axis=(1, 2)) + 1) * 127.5
    return (plane - 20 - 5 - 4) / 3.5


def write_clip(
    path: Path,
    *,
    frames: int = 24,
    fps: int = 8,
    height: int = 48,
    width: int = 64,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    seed: int = 0,
    times_ms: Sequence[int] | None = None,
    faststart: bool = False,
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """Write a clip whose pictures tell their number; `seed` changes the bytes, not the story."""
    # x265 writes past its buffers where a side is shorter than its coding unit, and aborts later
    assert codec != "libx265" or min(height, width) >= 64
    path.parent.mkdir(parents=True, exist_ok=True)
    muxing = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=muxing) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        quality = {"libx264": {"crf": "10"}, "libx265": {"x265-params": "log-level=none"}}
        stream.options = {**quality.get(codec, {}), **(options or {})}
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            pixels = picture(number, height, width)
            if seed:
                pixels[:8, :8] = 37 * seed % 256
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_sound(path: Path) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for number in range(4):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, number * 1024
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def rotate_clockwise(path: Path, *, height: int) -> None:
    """Set the display matrix of an mp4 as a phone held upright does."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    turned = (0, 1 << 16, 0, -(1 << 16), 0, 0, height << 16, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *turned)
    path.write_bytes(data)


def trim(path: Path, *, first: int, frames: int, fps: int) -> None:
    """Let the mp4's edit list hide frames, as lossless trimming on a phone does."""
    with av.open(str(path)) as container:
        ticks = int(first / (container.streams.video[0].time_base * fps))
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 4 + 8
    start = struct.unpack(">i", data[entry + 4 : entry + 8])[0] + ticks
    data[entry : entry + 8] = struct.pack(">Ii", frames * 1000 // fps, start)
    path.write_bytes(data)


def free_box(note: bytes) -> bytes:
    """A box that players pass over; at the end of an mp4 it changes the bytes and nothing else."""
    return struct.pack(">I4s", 8 + len(note), b"free") + note


def damage(path: Path, *, frame: int) -> None:
    """Overwrite the coded bytes of one frame, lengths and all."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        place, size = packets[frame].pos, packets[frame].size
    data = bytearray(path.read_bytes())
    data[place : place + size] = b"\xa5" * size
    path.write_bytes(data)
