"""The command `cogvx`: that of `flows.cli`, and what puts it to work on Prefect's server."""

import flows.cli  # noqa: F401 - adds its commands
from cogvx.__main__ import app, guarded
from deployments import deploy_cli
from deployments.up import cli as up_cli

for command in (deploy_cli.deploy, up_cli.up, up_cli.status, up_cli.down, up_cli.trigger):
    app.command()(command)


def main() -> None:
    """Entry point of the console script."""
    guarded(app)


if __name__ == "__main__":
    main()
