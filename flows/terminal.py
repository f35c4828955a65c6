"""How commands begin, and what they print."""

import logging
import sys
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from cogvx.check import Purpose, check_file
from cogvx.recipe import Recipe
from cogvx.terminal import printable
from tasks.retraining import summary
from tasks.settings import prepare_process


def begin(path: Path, *, purpose: Purpose = "train") -> Recipe:
    """Check the recipe before anything slow is imported, and set up this process."""
    checked = check_file(path, purpose=purpose)
    prepare_process()
    log_to_terminal()
    return checked.recipe


def log_to_terminal() -> None:
    """Show our own loggers on stderr; Prefect shows its warnings by itself."""
    handler = RichHandler(
        console=Console(stderr=True), show_path=False, show_level=False, log_time_format="[%X]"
    )
    for name in ("cogvx", "tasks", "flows"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def show(title: str, rows: list[summary.Row]) -> None:
    """Print facts one a line, never wrapped, so that paths can be copied."""
    console = Console(file=sys.stdout, soft_wrap=True, highlight=False)
    console.print(Text(title, style="bold underline"))
    for name, fact in rows:
        console.print(Text.assemble((f"{name:<10}", "bold"), printable(fact)))
