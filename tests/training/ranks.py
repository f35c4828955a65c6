"""A run in several processes, as accelerate starts them, for the price of one's imports.

`python -m tests.training.ranks RUN_DIR PROCESSES` imports the trainer, forks, and prints the exit
codes of the processes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.fixtures.servers import free_port

_ROOT = Path(__file__).parents[2]


def train_in(root: Path, *, processes: int) -> list[int]:
    """Train the run in a folder; returns the exit codes in the order of ranks."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(root), str(processes)],
        cwd=_ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    codes: list[int] = json.loads(done.stdout.splitlines()[-1])
    return codes


def _main(root: str, processes: int) -> None:
    from cogvx.training.__main__ import main

    port = str(free_port())
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
            os.environ.update({name: str(value) for name, value in place.items()})
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, ACCELERATE_USE_CPU="true")
            code = 70
            try:
                code = main([root])
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
