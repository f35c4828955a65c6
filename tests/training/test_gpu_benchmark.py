"""The benchmark that is run on a GPU works: at toy size, on the CPU, cut short and run again."""

import json
import sys
from pathlib import Path

import pytest

from tests.benchmarks import gpu_training


def test_every_cell_is_measured_once_and_stands_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--toy", "--updates", "1", "--bases", "1.5", "--micro-batches", "1"]
    monkeypatch.setattr(sys, "argv", ["gpu_training", "--out", str(tmp_path), *arguments])
    gpu_training.main()
    lines = (tmp_path / "cells.jsonl").read_text().splitlines()
    cells = [json.loads(line) for line in lines]
    assert len(cells) == sum(not way.get("compile") for way in gpu_training.WAYS)
    assert all(cell["seconds"] > 0 and not cell["fault"] for cell in cells)
    table = (tmp_path / "table.md").read_text()
    assert sum(line.startswith("| 1.5 |") for line in table.splitlines()) == len(cells)
    assert "| peak GiB reserved | of them allocated | estimated GiB |" in table

    (tmp_path / "cells.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    gpu_training.main()
    again = (tmp_path / "cells.jsonl").read_text().splitlines()
    assert again[:-1] == lines[:-1]
    assert json.loads(again[-1])["asked"] == cells[-1]["asked"]


def test_a_cell_without_room_is_a_row_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    full = gpu_training.Cell("5b", 2, "checkpointing none", "none", fault="out of memory")
    gpu_training.write_table(path, [full], "a GPU")
    assert "| 5b | 2 | checkpointing none | none | no |  | no room |" in path.read_text()
