"""What is remembered of files saves reading them, and never gives one another's name."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cogvx.digest import digest
from cogvx.model.hashes import FileHashes
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.model.nano.carried import carried_nano

_WEIGHTS = b"weights" * 1000
_FALSE = "f" * 64


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Files that were written long enough ago to be remembered, each for one use."""
    folder = tmp_path_factory.mktemp("settled")
    paths = [folder / f"{number}.safetensors" for number in range(20)]
    for path in paths:
        path.write_bytes(_WEIGHTS)
    time.sleep(2.1)
    return iter(paths)


@pytest.fixture
def weights(settled: Iterator[Path]) -> Path:
    return next(settled)


@pytest.fixture
def memory(weights: Path, tmp_path: Path) -> Path:
    """A memory that says something false of the weights, so that one sees when it is believed."""
    path = tmp_path / "home" / "file-hashes.json"
    hashes = FileHashes(path)
    assert hashes.sha256(weights) == hashlib.sha256(_WEIGHTS).hexdigest()
    hashes.save()
    document = json.loads(path.read_bytes())
    document["files"][str(weights)]["sha256"] = _FALSE
    document["digest"] = digest(document["files"])
    path.write_text(json.dumps(document))
    return path


def rewrite(path: Path) -> None:
    path.write_bytes(b"W" + _WEIGHTS[1:])


def rewrite_with_the_old_time(path: Path) -> None:
    before = path.stat()
    rewrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_with_the_old_time(path: Path) -> None:
    before = path.stat()
    rewrite(other := path.with_name("other"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def test_a_file_that_stayed_is_not_read_by_another_process(memory: Path, weights: Path) -> None:
    assert FileHashes(memory).sha256(weights) == _FALSE
    link = weights.with_name("link")
    link.symlink_to(weights)
    assert FileHashes(memory).sha256(link) == _FALSE


@pytest.mark.parametrize("change", [rewrite, rewrite_with_the_old_time, replace_with_the_old_time])
def test_a_file_that_changed_is_read(
    memory: Path, weights: Path, change: Callable[[Path], None]
) -> None:
    change(weights)
    expected = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert weights.stat().st_size == len(_WEIGHTS)
    assert FileHashes(memory).sha256(weights) == expected


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace(_FALSE, _FALSE[:-1] + "e"),
        lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
        lambda text: "[]",
    ],
)
def test_a_damaged_memory_is_forgotten_and_made_anew(
    memory: Path, weights: Path, damage: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    before = memory.read_text()
    memory.write_text(damage(before))
    assert memory.read_text() != before
    hashes = FileHashes(memory)
    assert "is damaged, files are hashed again" in caplog.text
    assert hashes.sha256(weights) == hashlib.sha256(_WEIGHTS).hexdigest()
    caplog.clear()
    hashes.save()
    again = json.loads(memory.read_bytes())["files"][str(weights)]
    assert again["sha256"] == hashlib.sha256(_WEIGHTS).hexdigest()


def test_a_file_written_just_now_is_not_remembered(tmp_path: Path) -> None:
    young, memory = tmp_path / "young", tmp_path / "memory.json"
    young.write_bytes(_WEIGHTS)
    hashes = FileHashes(memory)
    hashes.sha256(young)
    hashes.save()
    assert not memory.exists()


def test_processes_that_share_a_memory_add_to_it_and_drop_what_is_gone(
    memory: Path, weights: Path, settled: Iterator[Path]
) -> None:
    mine, theirs = FileHashes(memory), FileHashes(memory)
    paths = [next(settled), next(settled)]
    for hashes, path in zip((mine, theirs), paths, strict=True):
        hashes.sha256(path)
    weights.unlink()
    mine.save()
    theirs.save()
    assert set(json.loads(memory.read_bytes())["files"]) == set(map(str, paths))


def test_a_memory_that_cannot_be_written_is_done_without(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    hashes = FileHashes(tmp_path / "file" / "memory.json")
    hashes.sha256(weights)
    hashes.save()
    assert "cannot be written" in caplog.text


def test_a_base_has_the_same_fingerprint_with_a_memory(tmp_path: Path) -> None:
    plain = fingerprint(carried_nano(), BASE_PARTS)
    for _ in range(2):
        hashes = FileHashes(tmp_path / "memory.json")
        assert fingerprint(carried_nano(), BASE_PARTS, hashes=hashes) == plain
        hashes.save()


def test_remembering_loads_no_model_library() -> None:
    code = "import sys, cogvx.model.hashes; print({'torch', 'safetensors'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
