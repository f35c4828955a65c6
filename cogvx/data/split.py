"""Which clips are held out of training: decided by their bytes, so that it never moves."""

from collections.abc import Sequence

from cogvx.digest import sha256_bytes
from cogvx.errors import DataError
from cogvx.recipe_sections import DatasetConfig


def choose_heldout(sha256s: Sequence[str], *, config: DatasetConfig) -> frozenset[str]:
    """The clips to hold out: those whose lot is below the share, or the lowest lots.

    A clip's lot depends on its own bytes alone. So adding or removing other clips moves it only
    where `min_heldout`, or the clip that training must keep, decides instead of the share.

    Raises:
        DataError: Nothing would be left to train on.
    """
    if len(sha256s) <= config.min_heldout:
        raise DataError(
            f"{len(sha256s)} usable clip(s) are too few to hold out"
            f" dataset.min_heldout = {config.min_heldout}; bring at least {config.min_heldout + 1}"
        )
    ordered = sorted((_lot(sha256), sha256) for sha256 in sha256s)
    below = sum(lot < config.heldout_share for lot, _ in ordered)
    count = min(max(below, config.min_heldout), len(ordered) - 1)
    return frozenset(sha256 for _, sha256 in ordered[:count])


def _lot(sha256: str) -> float:
    """A number in [0, 1)."""
    return int(sha256_bytes(f"heldout:{sha256}".encode())[:8], 16) / 2**32
