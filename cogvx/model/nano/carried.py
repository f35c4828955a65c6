"""Where the trained nano model lies that travels with the project."""

from pathlib import Path

CARD_FILE = "nano_card.json"

_WEIGHTS = Path(__file__).parent / "weights"


def carried_nano() -> Path:
    """The diffusers folder of the nano model that knows its world; read it, never write there.

    How it was made and how well it does stands beside it, in `nano_card.json`.
    """
    return _WEIGHTS
