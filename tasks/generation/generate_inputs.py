"""Prompt files and first frames of a job, wherever they lie, and pictures on their way to workers.

A picture is resized once, by the run that plans; workers read the pixels from the store.
"""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cogvx.digest import digest, sha256_bytes
from cogvx.errors import ConfigError, DataError, IntegrityError
from cogvx.inference.job import GenerateJob
from cogvx.inference.prompt_file import parse_prompts
from cogvx.inference.shots import ReadImage
from cogvx.shapes import VideoSize
from cogvx.store import Absent, ObjectStore
from tasks.clients.stores import open_store
from tasks.generation.generation import read_picture
from tasks.settings import Settings


def read_inputs(job: GenerateJob, here: Settings) -> tuple[GenerateJob, ReadImage]:
    """The job with its prompts, and what reads its pictures.

    Pictures of a prompt file's lines are looked for beside it.

    Raises:
        ConfigError: The job has no prompts, or both kinds; or the file has problems.
        TransientError: Its store did not answer this time.
    """
    if bool(job.prompts) == (job.prompts_uri is not None):
        raise ConfigError("a job needs prompts or prompts_uri, and not both")
    read_image = _reader(here)
    if job.prompts_uri is None:
        return job, read_image
    store, name = _opened(job.prompts_uri, here)
    try:
        data = store.read(name)
    except Absent as error:
        raise ConfigError(f"{job.prompts_uri}: there is no such prompt file") from error
    lines = parse_prompts(data, job.prompts_uri)
    folder = job.prompts_uri.rpartition("/")[0]
    placed = tuple(
        line.model_copy(update={"image": f"{folder}/{line.image}" if folder else line.image})
        if line.image
        else line
        for line in lines
    )
    return job.model_copy(update={"prompts": placed, "prompts_uri": None}), read_image


def picture_key(rgb_hwc: np.ndarray, folder: str) -> str:
    """Where `publish_picture` keeps a first frame."""
    return f"{folder}/{sha256_bytes(rgb_hwc.tobytes())}.png"


def publish_picture(rgb_hwc: np.ndarray, folder: str, store: ObjectStore) -> str:
    """Keep a first frame, pixel by pixel; returns its key."""
    key = picture_key(rgb_hwc, folder)
    if store.info(key) is None:
        file = io.BytesIO()
        Image.fromarray(rgb_hwc).save(file, "PNG")
        store.write(key, file.getvalue())
    return key


def published_picture(store: ObjectStore) -> ReadImage:
    """Reads what `publish_picture` kept."""

    def read(key: str, size: VideoSize) -> np.ndarray:
        with Image.open(io.BytesIO(store.read(key)), formats=("PNG",)) as image:
            rgb_hwc = np.asarray(image)
        if sha256_bytes(rgb_hwc.tobytes()) != Path(key).stem:
            raise IntegrityError(f"{key} in {store.url} is damaged; remove it, and run again")
        if rgb_hwc.shape != (size.height, size.width, 3):
            raise DataError(f"{key} is {rgb_hwc.shape}, not the first frame of {size}")
        return rgb_hwc

    return read


def _reader(here: Settings) -> Callable[[str, VideoSize], np.ndarray]:
    def read(uri: str, size: VideoSize) -> np.ndarray:
        store, name = _opened(uri, here)
        with tempfile.TemporaryDirectory(prefix=digest(uri)[:8]) as folder:
            try:
                path = store.fetch(name, Path(folder))
            except Absent as error:
                raise ConfigError(f"{uri}: there is no such picture") from error
            return read_picture(str(path), size)

    return read


def _opened(uri: str, here: Settings) -> tuple[ObjectStore, str]:
    """The store of a file's folder, and its name there.

    Raises:
        ConfigError: The address is of no kind that is known.
    """
    folder, _, name = uri.rpartition("/")
    if not name:
        raise ConfigError(f"{uri} names no file")
    return open_store(folder or ("/" if uri.startswith("/") else "."), here), name
