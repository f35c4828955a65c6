"""Which GPUs this machine has, without loading what uses them."""

import subprocess
from pathlib import Path

from tasks.settings import settings, visible_gpus

_DRIVER = Path("/proc/driver/nvidia/gpus")
_PATIENCE_SECONDS = 30  # the first question may load the driver


def gpus() -> tuple[str, ...]:
    """What to write into CUDA_VISIBLE_DEVICES for each GPU; nothing where there is none.

    Those that this process's own CUDA_VISIBLE_DEVICES leaves, and none where COGVX_DEVICE is "cpu".
    """
    if settings().device == "cpu":
        return ()
    allowed = visible_gpus()
    count = _count()
    if allowed is None or not count:
        return tuple(str(number) for number in range(count))
    return allowed


def _count() -> int:
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except (FileNotFoundError, PermissionError, subprocess.TimeoutExpired):
        # a container may see GPUs without that program
        return sum(1 for _ in _DRIVER.iterdir()) if _DRIVER.is_dir() else 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
