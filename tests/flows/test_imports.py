"""A control machine imports flows without a GPU stack, and quickly."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys, time
started = time.perf_counter()
import {module}
heavy = {{"torch", "diffusers", "transformers", "peft", "accelerate", "decord"}}
heavy = sorted(heavy & set(sys.modules))
print(json.dumps([time.perf_counter() - started, heavy]))
"""


@pytest.mark.parametrize(
    "module",
    [
        "flows.retrain",
        "flows.cache",
        "flows.encode",
        "flows.train",
        "flows.evaluate",
        "flows.promote",
        "flows.generate",
        "flows.cli",
    ],
)
def test_a_flow_is_imported_without_the_gpu_stack(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    seconds, heavy = json.loads(done.stdout.strip().split("\n")[-1])
    assert heavy == []
    print(f"import {module}: {seconds:.2f} s")


def test_the_command_line_sets_its_settings_before_prefect_reads_them() -> None:
    """Imported earlier, Prefect would keep its database in the user's home, and report its use."""
    program = "import deployments.cli, sys; sys.exit('prefect' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
