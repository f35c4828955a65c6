"""Where generated videos go on this machine: nothing of somebody's is overwritten unasked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvx.digest import digest
from cogvx.errors import CogvxError, ConfigError, Problem
from cogvx.inference.grid import Grid, Row, write_grid, write_sheet
from cogvx.inference.provenance import Provenance, read_provenance
from cogvx.inference.shots import Shot
from cogvx.mp4 import read_label
from cogvx.section import shown_text

_GRID = "grid"
_KIND = ".mp4"
_OTHER_VIDEOS = (
    *(".avi", ".mov", ".mkv", ".webm", ".gif", ".m4v", ".mpg", ".mpeg"),
    *(".wmv", ".flv", ".ogv", ".3gp", ".mts"),
)
_GRID_TAG = "cogvx_grid"


@dataclass(frozen=True)
class Target:
    """Where a video goes, what it will say of itself, and whether exactly that is there."""

    path: Path
    provenance: Provenance
    is_there: bool


def early_problems(out: Path, *, force: bool) -> list[Problem]:
    """What is wrong with a place before anybody knows which videos go there."""
    try:
        return _place_problems(out, force=force)
    except OSError as error:  # a name that no file can have
        wrong = f"cannot be used: {error.strerror}"
        return [Problem("-o", shown_text(str(out)), wrong, "name another")]


def _place_problems(out: Path, *, force: bool) -> list[Problem]:
    shown = str(out)
    blocked = [path for path in out.absolute().parents if path.exists() and not path.is_dir()]
    if blocked:
        return [Problem("-o", shown, f"lies below {blocked[0]}, which is no folder")]
    if out.exists() and not out.is_file() and not out.is_dir():
        return [Problem("-o", shown, "is neither a file nor a folder", "name another")]
    if out.suffix != _KIND:
        return _suffix_problems(out)
    if out.is_dir():
        return [Problem("-o", shown, "is a folder", "name a file in it")]
    if out.is_file() and not force and _read(out) is None:
        wrong = "is there already, and was not made by cogvx generate"
        return [Problem("-o", shown, wrong, "use --force to replace it, or another name")]
    return []


def _suffix_problems(out: Path) -> list[Problem]:
    if out.suffix.lower() in (*_OTHER_VIDEOS, _KIND) and not out.is_dir():
        wrong, use = f"is no {_KIND} file", f"name it {out.with_suffix(_KIND).name}"
        return [Problem("-o", str(out), wrong, use)]
    use = "name a folder, or a file that ends in .mp4"
    return [Problem("-o", str(out), "is a file", use)] if out.is_file() else []


def place(out: Path, shots: Sequence[Shot]) -> dict[str, Path]:
    """Each video's file, by the names of the shots.

    Raises:
        ConfigError: Several videos are to go into one file.
    """
    if out.suffix != ".mp4":
        return {shot.name: out / f"{shot.name}.mp4" for shot in shots}
    if len(shots) > 1:
        wrong = f"is one file, and {len(shots)} videos are asked for"
        raise ConfigError(str(Problem("-o", str(out), wrong, "name a folder, without .mp4")))
    return {shots[0].name: out}


def claim(
    places: Mapping[str, Path], wanted: Mapping[str, Provenance], *, force: bool
) -> dict[str, Target]:
    """Find out what is there already.

    Args:
        places: A file for each video, by name.
        wanted: What each will say of itself.
        force: Replace other videos.

    Raises:
        ConfigError: Other videos stand in these places; all are named.
    """
    targets, problems = {}, []
    for name, path in places.items():
        there = _read(path) if path.is_file() else None
        same = there is not None and there.video == wanted[name].video
        if path.exists() and not same and not force:
            use = "use --force to replace it, or another name"
            problems.append(Problem(str(path), None, "is there already and is another video", use))
        is_done = same and there is not None and there.prompt == wanted[name].prompt
        targets[name] = Target(path, wanted[name], is_done)
    if problems:
        raise ConfigError("nothing was generated", problems)
    return targets


def write_sweep(
    folder: Path, title: str, shots: Sequence[Shot], targets: Mapping[str, Target], *, force: bool
) -> tuple[Path, ...]:
    """The grid of a sweep, a column for each scale, and its contact sheet; made anew if need be.

    Raises:
        ConfigError: Something else stands there.
    """
    scales = list(dict.fromkeys(shot.scale for shot in shots))
    rows: dict[str, dict[float, Path]] = {}
    labels: dict[str, str] = {}
    for shot in shots:
        request = shot.wanted.request
        labels[shot.stem] = f"{request.prompt}, seed {request.seed}"
        rows.setdefault(shot.stem, {})[shot.scale] = targets[shot.name].path
    grid = Grid(
        title=title,
        columns=tuple(f"scale {scale:g}" for scale in scales),
        rows=tuple(
            Row(labels[stem], tuple(cells.get(scale) for scale in scales))
            for stem, cells in rows.items()
        ),
    )
    made_of = digest([[target.provenance.video, name] for name, target in targets.items()])
    video, sheet = folder / f"{_GRID}.mp4", folder / f"{_GRID}.png"
    if video.is_file() and sheet.is_file() and _label(video) == made_of:
        return video, sheet
    if video.is_file() and _label(video) is None and not force:
        wrong = "is there already and is no grid of cogvx generate"
        raise ConfigError(str(Problem(str(video), None, wrong, "use --force to replace it")))
    write_sheet(sheet, grid)
    return (*write_grid(video, grid, {_GRID_TAG: made_of}), sheet)


def _read(path: Path) -> Provenance | None:
    """None for whatever is no video of ours."""
    try:
        return read_provenance(path)
    except CogvxError:
        return None


def _label(path: Path) -> str | None:
    try:
        return read_label(path).get(_GRID_TAG)
    except CogvxError:
        return None
