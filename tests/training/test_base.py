"""A trainer trains over the base that its run was prepared for, or not at all."""

import shutil
from pathlib import Path

import pytest

from cogvx.errors import IntegrityError
from cogvx.files import write_document
from cogvx.runs.folder import RunFolder
from tests.fixtures.training_runs import make_run, open_trainer


def test_another_base_in_the_folder_is_refused_before_it_is_loaded(
    nano_base: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(nano_base, base)
    folder = RunFolder(make_run(tmp_path / "run", base))
    memory = tmp_path / "file-hashes.json"
    spec = folder.read_spec().model_copy(
        update={"file_hashes": str(memory), "base_revision": "b" * 40}
    )
    write_document(folder.spec, spec)
    spec.require_base()
    weights = base / "text_encoder" / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError) as caught:
        open_trainer(folder.root)
    sentence = str(caught.value)
    assert f"{base} (fingerprint " in sentence
    assert f"(fingerprint {spec.base_fingerprint[:16]}, revision {'b' * 40})" in sentence
    assert not list(folder.checkpoints.glob("step-*"))
    weights.write_bytes(data)
    spec.require_base()
