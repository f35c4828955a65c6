"""Reading the run folder's records; every record is verified each time it is read."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from cogvx.cache.records import unpack
from cogvx.errors import IntegrityError
from cogvx.runs.folder import Sample, record_file

_SHOWN = 3


class Records:
    """The materialised records of a run, by name."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds one `<name>.safetensors` for each record."""
        self.folder = folder

    def moments(self, sample: Sample) -> Tensor:
        """The posterior of a clip, `(2c, f, h, w)`, unscaled, in the precision it was stored in.

        Raises:
            IntegrityError: The record is absent, damaged or another's.
        """
        return self._read(sample.latents)

    def image(self, sample: Sample, draw: int) -> Tensor:
        """The posterior of a noised first frame of a clip, `(2c, 1, h, w)`, like its latents'.

        Raises:
            IntegrityError: The clip has no such draw; the record is absent, damaged or another's.
        """
        if draw >= len(sample.images):
            raise IntegrityError(
                f"{sample.clip} has {len(sample.images)} noised first frames, so no number {draw}; "
                "cache it for this base again"
            )
        return self._read(sample.images[draw])

    def prompt(self, name: str) -> Tensor:
        """An embedded caption, `(s, d)`, padding included.

        Raises:
            IntegrityError: The record is absent, damaged or another's.
        """
        return self._read(name)

    def require(self, names: Iterable[str]) -> None:
        """Refuse to begin when records are absent, rather than to stop in the middle.

        Raises:
            IntegrityError: Naming some of them and their number.
        """
        absent = sorted({name for name in names if not record_file(self.folder, name).is_file()})
        if absent:
            shown = ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
            raise IntegrityError(
                f"{self.folder} lacks {len(absent)} record(s): {shown}; materialise them again"
            )

    def _read(self, name: str) -> Tensor:
        try:
            data = record_file(self.folder, name).read_bytes()
        except FileNotFoundError as error:
            raise IntegrityError(
                f"{self.folder} lacks record {name}; materialise it again"
            ) from error
        return unpack(data, name)
