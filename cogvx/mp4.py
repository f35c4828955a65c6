"""Videos as files that every player opens: H.264 in mp4, written whole, read back exactly timed."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace

from cogvx import files
from cogvx.errors import DataError

# bitexact leaves out the encoder's version and the time; faststart lets a browser seek.
_CONTAINER = {"movflags": "use_metadata_tags+faststart", "fflags": "+bitexact"}
_BT601, _LIMITED_RANGE = 6, 1  # SMPTE 170M and MPEG range, as ITU-T H.273 numbers them


@dataclass(frozen=True)
class Mp4:
    """A decoded video: `rgb_fhwc` in uint8, and the container's average frames a second."""

    rgb_fhwc: np.ndarray
    fps: float


def write_mp4(
    path: Path,
    rgb_fhwc: np.ndarray,
    *,
    fps: int,
    crf: int = 18,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Encode frames as H.264 in yuv420p, the one format that browsers and players share.

    One thread and no clock: the same frames give the same bytes on every machine. The colours are
    tagged as BT.601, because an untagged file is guessed by its size and shifts in hue.

    Args:
        path: Replaced as a whole; a reader sees the old file or the new one.
        rgb_fhwc: uint8; height and width even, as yuv420p halves both for colour.
        fps: Frames a second, kept exactly.
        crf: Quality from 0 (lossless but for the colour conversion) to 51.
        metadata: Keys and values that ffprobe shows, such as the prompt and the seed.

    Raises:
        DataError: The array is no such video.
    """
    _require_video(rgb_fhwc)
    files.write_file(path, lambda aside: _encode(aside, rgb_fhwc, fps, crf, metadata or {}))


def read_mp4(path: Path) -> Mp4:
    """Decode the whole video stream of a file.

    Raises:
        DataError: The file holds no video that can be decoded.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path} holds no video")
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            rate = stream.average_rate
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path} cannot be decoded as a video: {error}") from error
    if not frames or not rate:
        raise DataError(f"{path} holds a video without frames")
    return Mp4(rgb_fhwc=_stacked(frames), fps=float(rate))


def label_mp4(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    """Copy a video under other metadata; its pictures are not encoded anew.

    Args:
        source: A file of `write_mp4`, whose own metadata stays behind.
        target: Replaced as a whole.
        metadata: Keys and values that ffprobe shows; no value may be empty or hold a NUL.

    Raises:
        DataError: The source is no video.
    """
    try:
        files.write_file(target, lambda aside: _copy(source, aside, metadata))
    except av.FFmpegError as error:
        raise DataError(f"{source} cannot be read as a video: {error}") from error


def read_label(path: Path) -> dict[str, str]:
    """The metadata of a video, without decoding a frame.

    Raises:
        DataError: The file is no video.
    """
    try:
        with av.open(str(path)) as container:
            return dict(container.metadata)
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path} cannot be read as a video: {error.strerror}") from error


def _stacked(frames: list[np.ndarray]) -> np.ndarray:
    """As `np.stack`, letting go of each frame as it is copied: a long video takes its room once."""
    rgb_fhwc = np.empty((len(frames), *frames[0].shape), dtype=np.uint8)
    for number in reversed(range(len(frames))):
        rgb_fhwc[number] = frames.pop()
    return rgb_fhwc


def _require_video(rgb_fhwc: np.ndarray) -> None:
    shape = "x".join(str(extent) for extent in rgb_fhwc.shape)
    if rgb_fhwc.dtype != np.uint8 or rgb_fhwc.ndim != 4 or rgb_fhwc.shape[-1] != 3:
        raise DataError(
            f"an array of {rgb_fhwc.dtype} {shape} is not a video; use uint8 frames x height x"
            " width x 3"
        )
    frames, height, width, _ = rgb_fhwc.shape
    if not frames or not height or not width:
        raise DataError(f"a video of {shape} is empty; use at least one frame")
    if height % 2 or width % 2:
        raise DataError(f"a video of {height}x{width} cannot be H.264 in yuv420p; use even sizes")


def _encode(
    path: Path, rgb_fhwc: np.ndarray, fps: int, crf: int, metadata: Mapping[str, str]
) -> None:
    with av.open(str(path), "w", format="mp4", options=_CONTAINER) as container:
        container.metadata.update(metadata)
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = rgb_fhwc.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # x264 decides otherwise on other CPUs, and now and then on the same, unless it is told to
        same = {"x264-params": "cpu-independent=1"}
        stream.options = {"crf": str(crf), "preset": "medium", **same}
        context = stream.codec_context
        context.thread_count = 1
        context.colorspace = context.color_primaries = context.color_trc = _BT601
        context.color_range = _LIMITED_RANGE
        for number, rgb_hwc in enumerate(rgb_fhwc):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb_hwc), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU601)
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _copy(source: Path, path: Path, metadata: Mapping[str, str]) -> None:
    with (
        av.open(str(source)) as old,
        av.open(str(path), "w", format="mp4", options=_CONTAINER) as new,
    ):
        new.metadata.update(metadata)
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:  # the last one only says that there are no more
                packet.stream = stream
                new.mux(packet)
