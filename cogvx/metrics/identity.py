"""What a metric's number depends on besides the video, as a name: another one, another number.

A metric of ours says by its `version` when its way of measuring changed. Of one that a team
installed nobody knows, so the version of the package and the file that holds it are the name.
"""

import functools
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType

import av
import cv2

from cogvx.digest import sha256_file
from cogvx.metrics.registry import GROUP, metrics

# Raised when frames are decoded otherwise, which changes every number.
_DECODING = 1


@functools.cache
def identities() -> Mapping[str, str]:
    """A name for the way each metric of videos measures, by metric; looked up once a process.

    Raises:
        ConfigError: An installed metric cannot be used.
    """
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    return MappingProxyType(
        {
            name: _of_a_team(installed[name]) if name in installed else f"cogvx {metric.version}"
            for name, metric in metrics().items()
            if metric.measure is not None
        }
    )


def tools() -> str:
    """What decodes frames and computes their flow, with versions: the last digits may be theirs."""
    return f"decoding {_DECODING}, av {av.__version__}, opencv {cv2.__version__}"


def _of_a_team(entry: EntryPoint) -> str:
    package = "" if entry.dist is None else f"{entry.dist.name} {entry.dist.version} "
    file = getattr(sys.modules[entry.module], "__file__", None)
    # a package under development changes without a new version
    return package + (sha256_file(Path(file)) if file and Path(file).is_file() else entry.value)
