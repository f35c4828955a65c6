"""Pictures of the training clips that a challenger's videos resemble most, for the report.

Loads the GPU stack: import it inside a task's body.
"""

import io
import logging
from pathlib import Path

from PIL import Image

from cogvx import files
from cogvx.data.decode import decode_clip
from cogvx.data.manifest import Clip, Manifest
from cogvx.data.scratch import scratch_folder
from cogvx.data.windows import crop_rule
from cogvx.digest import digest, sha256_file
from cogvx.errors import DataError
from cogvx.evaluation.documents import EvaluationReport
from cogvx.model.encode import to_pixels
from cogvx.shapes import VideoSize
from cogvx.store import Absent
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)

# The page shows fewer, unless more than that are over their limit.
_MOST = 24


def stills_of(bench: Workbench, report: EvaluationReport, manifest: Manifest) -> dict[str, Path]:
    """The middle frame of each such clip's first window as it was trained on, by the clip's id.

    A clip that is gone or has changed since has no picture.

    Raises:
        TransientError: The dataset did not answer this time.
    """
    windows = {window.key: window for window in reversed(manifest.train)}
    near = [each for each in report.neighbours if each.arm == report.verdict.candidate]
    near.sort(key=lambda each: (-each.similarity, each.clip))
    clips = list(dict.fromkeys(each.clip for each in near if each.clip in windows))
    found = {}
    for clip in clips[:_MOST]:
        try:
            found[clip] = _still(bench, windows[clip])
        except (Absent, DataError) as error:
            logger.warning("%s is not shown beside the videos that resemble it: %s", clip, error)
    return found


def _still(bench: Workbench, window: Clip) -> Path:
    size, fps = window.size, bench.recipe.video.fps
    name = digest([window.sha256, window.start_frame, str(size), fps, window.crop, window.flip])
    path = bench.work / "stills" / f"{name}.png"
    if path.exists():
        return path
    with scratch_folder(bench.work, "stills") as folder:
        source = bench.dataset.fetch(window.key, folder)
        if sha256_file(source) != window.sha256:
            raise DataError("it has changed since it was cached")
        rgb_cfhw = decode_clip(
            source,
            start_frame=window.start_frame,
            size=VideoSize(size.frames // 2 + 1, size.height, size.width),
            fps=fps,
            crop=crop_rule(window),
            flip=window.flip,
        )
    file = io.BytesIO()
    Image.fromarray(to_pixels(rgb_cfhw[:, -1:])[0]).save(file, "PNG")
    files.write_bytes(path, file.getvalue())
    return path
