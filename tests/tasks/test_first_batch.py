"""The first batch is decoded by a process of its own, which speaks for itself when it fails."""

from pathlib import Path

import pytest

from cogvx.errors import CogvxError
from cogvx.runs.folder import RunFolder
from cogvx.training.proof import ProofOrder
from tasks.first_batch import _make_apart


def test_a_process_that_fails_is_quoted(tmp_path: Path) -> None:
    order = ProofOrder(device="cpu", fps=8)
    with pytest.raises(
        CogvxError, match=r"^ConfigError: .* is no run folder: it has no run\.json$"
    ):
        _make_apart(RunFolder(tmp_path), order)
    assert not RunFolder(tmp_path).first_batch.exists()
