"""Take part in the training of a flow run that another pod of the same job leads: `-m flows.join`.

All pods of a job are started alike, and know the flow run; the first one executes it.
"""

import logging

from cogvx.__main__ import guarded
from flows.terminal import log_to_terminal
from tasks.settings import prepare_process

logger = logging.getLogger(__name__)


def main() -> None:
    """Join the run of this pod's flow run, until it ends where it is led."""
    prepare_process()
    log_to_terminal()
    from tasks.training.join import join_run, led_recipe  # noqa: PLC0415 - Prefect reads settings
    from tasks.workbench import open_workbench  # noqa: PLC0415

    logger.info("took part in run %s", join_run(open_workbench(led_recipe()))[:16])


if __name__ == "__main__":
    guarded(main)
