"""What commands share: what the system refuses becomes a sentence, and long work shows itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cogvx.errors import ConfigError


def printable(text: str) -> str:
    """A text whose characters a terminal only shows: names in files may hold any others."""
    shown = (char if char.isprintable() or char == "\n" else "?" for char in text)
    return "".join(shown)


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Whatever the system refuses below the folder that a person named is theirs to mend."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{path} cannot be written: a part of it is a file") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while the block lasts; call it with how much of how much is done.

    It leaves nothing behind, and where nobody looks at a terminal it draws nothing.
    """
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    unseen = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=unseen) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
