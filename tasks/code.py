"""Which commit of this project's code is running, where anybody can tell."""

import functools
import json
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_GIT_SECONDS = 20.0


@dataclass(frozen=True)
class Commit:
    """A commit; `is_dirty` says that files were changed since."""

    sha: str
    is_dirty: bool = False

    def __str__(self) -> str:
        """As git describes it."""
        return self.sha + ("-dirty" if self.is_dirty else "")


@functools.cache
def commit() -> Commit | None:
    """The commit of the code, asked once; None where it was installed as a release.

    A checkout tells it through git, an installation from a repository through the record that pip
    leaves (PEP 610).
    """
    return commit_of_checkout(_ROOT) or commit_of_installation(metadata.distribution("cogvx"))


def commit_of_checkout(folder: Path) -> Commit | None:
    """The commit of a folder that is the top of a checkout; None if it is not, or without git.

    A folder that merely lies in somebody's repository, as an environment often does, has none.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        return None
    sha = _git(folder, "rev-parse", "HEAD")
    if sha is None:
        return None  # a repository without any commit
    # Not what git does not know: data and notes lie about in every checkout.
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return Commit(sha, is_dirty=bool(changed))


def commit_of_installation(distribution: metadata.Distribution) -> Commit | None:
    """The commit that pip installed from, as its direct_url.json says."""
    text = distribution.read_text("direct_url.json")
    if text is None:
        return None
    sha = json.loads(text).get("vcs_info", {}).get("commit_id")
    return Commit(sha) if sha else None


def _git(folder: Path, *words: str) -> str | None:
    """What git prints, or None if it is not there, too slow, or refuses."""
    # Without locks: another git may be at work in the checkout.
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
