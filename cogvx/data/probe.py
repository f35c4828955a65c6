"""What a video file says of itself, and whether it can be read at all.

Frames are counted from the packets, because containers often do not say, or say what an edit list
then hides. The file's first frame is decoded: it proves that there is a decoder, and only it knows
the display rotation.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av

from cogvx.data.manifest import ClipFacts, ClipLook
from cogvx.errors import DataError

# Raise it when the same file may be described differently; remembered facts are then forgotten.
PROBE_VERSION = 3

# Containers that hold their own frames. FFmpeg would also open playlists, which show the frames of
# other files, and pictures and texts, by their content, whatever they are called.
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"

# A frame of solid colour takes no bytes in a file, but all of its pixels in memory.
_MAX_SIDE = 8192

_TAG = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)", re.ASCII)  # Matroska's, for each track

# A declared rate is kept over the measured one if they agree: Matroska rounds times to 1 ms.
_RATE_TOLERANCE = Fraction(1, 100)


class _Packet(NamedTuple):
    """One coded frame without its bytes: all of them together are as large as the file."""

    tick: int
    is_key: bool
    is_hidden: bool

    @classmethod
    def of(cls, packet: Any) -> "_Packet":
        tick = packet.dts if packet.pts is None else packet.pts
        if tick is None:
            raise DataError("its frames carry no times")
        return cls(int(tick), bool(packet.is_keyframe), bool(packet.is_discard))


@dataclass(frozen=True)
class Track:
    """The video track that players choose.

    `ticks` are the times of its frames in units of `time_base` seconds, ascending; `hidden` counts
    the packets that an edit list tells players not to show. `timed` is false for AVI, which stores
    the order of decoding instead of the times of showing. `closed` is true where decoding may begin
    at any key frame, because nothing shown before it is stored after it; `keys` are the positions
    of the key frames. `height` and `width` are of the picture as shown: after `rotation` (degrees
    counterclockwise), with square pixels.
    """

    codec: str
    pixel_format: str
    height: int
    width: int
    rotation: int
    fps: Fraction
    time_base: Fraction
    ticks: tuple[int, ...]
    hidden: int
    timed: bool
    closed: bool
    keys: tuple[int, ...]

    @property
    def times_s(self) -> tuple[Fraction, ...]:
        """When each frame is shown, in seconds."""
        return tuple(tick * self.time_base for tick in self.ticks)


def probe(path: Path) -> ClipFacts:
    """Describe a clip without looking at more than its first frame.

    Raises:
        DataError: The file is no video, is cut short, or its first frame does not decode.
    """
    return describe(read_track(path))


def describe(track: Track, look: ClipLook | None = None) -> ClipFacts:
    """What a manifest says of a clip."""
    return ClipFacts(
        width=track.width,
        height=track.height,
        frames=len(track.ticks),
        fps=float(track.fps),
        codec=track.codec,
        look=look,
    )


def read_track(path: Path) -> Track:
    """Read the clock and the picture size of a file's video track.

    Raises:
        DataError: As `probe`.
    """
    if path.stat().st_size == 0:
        raise DataError("the file is empty")
    with open_video(path) as (container, stream):
        packets = [_Packet.of(packet) for packet in container.demux(stream) if packet.size]
        shown = [packet for packet in packets if not packet.is_hidden]
        ticks = sorted(packet.tick for packet in shown)
        key_ticks = {packet.tick for packet in shown if packet.is_key}
        if not ticks:
            raise DataError("its video track has no frames")
        time_base = _fraction(stream.time_base)
        fps = _rate(ticks, time_base, stream)
        _require_whole(stream, len(packets), ticks, Fraction(1) / (fps * time_base))
        _require_whole_matroska(container, stream, ticks[-1] * time_base, fps)
        timed = container.format.name != "avi"
        codec = str(stream.codec_context.codec.canonical_name)
    rotation, pixel_format, height, width = _first_picture(path)
    return Track(
        codec=codec,
        pixel_format=pixel_format,
        height=height,
        width=width,
        rotation=rotation,
        fps=fps,
        time_base=time_base,
        ticks=tuple(ticks),
        hidden=len(packets) - len(shown),
        timed=timed,
        closed=_is_closed(packets),
        keys=tuple(position for position, tick in enumerate(ticks) if tick in key_ticks),
    )


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its best video stream, the one that players and decord show.

    Raises:
        DataError: The file is no video; also for what fails while the container is open.
    """
    try:
        with _open(path) as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                kinds = sorted({str(other.type) for other in container.streams})
                raise DataError(f"the file holds no video, only {', '.join(kinds) or 'nothing'}")
            _require_ordinary_size(stream.codec_context.height, stream.codec_context.width)
            yield container, stream
    except PermissionError as error:
        raise DataError("the file may not be read") from error
    except (av.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "its text is not UTF-8"
        raise DataError(f"the file cannot be read as a video: {reason}") from error


def _open(path: Path) -> Any:
    try:
        return av.open(str(path), options={"format_whitelist": _CONTAINERS})
    except av.ArgumentError as error:
        raise DataError("it is not one of mp4, mov, mkv, webm and avi inside") from error


def _require_ordinary_size(height: int, width: int) -> None:
    if max(height, width) > _MAX_SIDE:
        raise DataError(
            f"its picture of {height}x{width} (height x width) is larger than"
            f" {_MAX_SIDE}x{_MAX_SIDE}; make a smaller copy"
        )


def _fraction(ratio: Any) -> Fraction:
    return Fraction(ratio.numerator, ratio.denominator)


def _is_closed(packets: Sequence[_Packet]) -> bool:
    key_tick = None
    for packet in packets:
        if packet.is_key:
            key_tick = packet.tick
        elif key_tick is not None and packet.tick < key_tick:
            return False
    return True


def _rate(ticks: list[int], time_base: Fraction, stream: Any) -> Fraction:
    declared = _fraction(stream.average_rate) if stream.average_rate else None
    span = (ticks[-1] - ticks[0]) * time_base
    measured = (len(ticks) - 1) / span if span > 0 else None
    if measured is None and declared is None:
        raise DataError("it is a single picture without a frame rate")
    if declared and (measured is None or abs(declared / measured - 1) <= _RATE_TOLERANCE):
        return declared
    assert measured is not None
    return measured


def _require_whole(stream: Any, packets: int, ticks: list[int], frame_ticks: Fraction) -> None:
    # Fewer packets than declared is also what a trimmed clip has, but its duration is trimmed too.
    if packets >= stream.frames or not stream.duration:
        return
    if ticks[-1] - ticks[0] + frame_ticks < stream.duration - frame_ticks:
        raise DataError(f"the file is cut short: {packets} of its {stream.frames} frames are there")


def _require_whole_matroska(container: Any, stream: Any, last_s: Fraction, fps: Fraction) -> None:
    """Compare with the duration in the track's tag, unless the whole file is said to be shorter.

    A file may be longer than its pictures, because of its sound; a tag may be left over from a
    longer file.
    """
    tag = _TAG.fullmatch(stream.metadata.get("DURATION", ""))
    if tag is None or not container.duration:
        return
    hours, minutes, seconds = (Fraction(part) for part in tag.groups())
    promised_s = min(
        hours * 3600 + minutes * 60 + seconds, Fraction(container.duration, av.time_base)
    )
    if last_s + 2 / fps < promised_s:
        raise DataError(
            f"the file is cut short: {float(last_s + 1 / fps):.2f} of its"
            f" {float(promised_s):.2f} s are there"
        )


def _first_picture(path: Path) -> tuple[int, str, int, int]:
    """Rotation, pixel format, height and width as shown."""
    with open_video(path) as (container, stream):
        frame = next(iter(container.decode(stream)), None)
        if frame is None:
            raise DataError("none of its frames can be decoded")
        rotation = int(frame.rotation)
        if rotation % 90:
            raise DataError(f"it is to be shown rotated by {rotation} degrees; use 0, 90, 180, 270")
        aspect = _fraction(stream.sample_aspect_ratio or 1)
        height, width = int(frame.height), round(frame.width * aspect)
        _require_ordinary_size(height, width)  # it is stretched to this before it is cut
        upright = (height, width) if rotation % 180 == 0 else (width, height)
        return rotation, str(frame.format.name), *upright
