"""The command `cogvx`: that of `flows.cli`, and what puts it to work on Prefect's server."""

from cogvx.__main__ import guarded
from flows.cli import app


def main() -> None:
    """Entry point of the console script."""
    guarded(app)


if __name__ == "__main__":
    main()
