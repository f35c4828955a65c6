"""A base model is found where it lies, and named by its bytes alone."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx.errors import ConfigError, IntegrityError
from cogvx.model.hashes import FileHashes
from cogvx.model.identity import (
    BASE_PARTS,
    VAE_PARTS,
    commit_of,
    fingerprint,
    require_base,
    resolve_base,
)
from tests.model.hub import COMMIT, Hub

_RESOLVE = """
import sys
from cogvx.errors import CogvxError
from cogvx.model.identity import BASE_PARTS, commit_of, fingerprint, resolve_base
try:
    base = resolve_base("me/nano", sys.argv[1] or None)
    print(fingerprint(base, BASE_PARTS))
    print(commit_of(base))
except CogvxError as error:
    print(type(error).__name__, error)
print("torch" in sys.modules)
"""


@pytest.fixture
def hub(nano_base: Path) -> Iterator[Hub]:
    with Hub(nano_base) as running:
        yield running


def resolve_elsewhere(endpoint: str, home: Path, revision: str = "") -> list[str]:
    """What a fresh process prints that resolves me/nano at a hub of ours."""
    done = subprocess.run(
        [sys.executable, "-c", _RESOLVE, revision],
        env={"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines()


def test_a_folder_is_itself(nano_base: Path) -> None:
    assert resolve_base(str(nano_base), None) == nano_base
    assert commit_of(nano_base) is None


def test_a_folder_has_no_revision(nano_base: Path) -> None:
    with pytest.raises(ConfigError, match=r'base.revision = "main" means nothing for a folder'):
        resolve_base(str(nano_base), "main")


@pytest.mark.parametrize("path", ["./absent/model", "/absent/model", "absent", "a/b/c"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="is not a folder on this machine"):
        resolve_base(path, None)


def test_a_hub_model_has_the_fingerprint_of_its_folder_and_loads_no_torch(
    hub: Hub, nano_base: Path, tmp_path: Path
) -> None:
    printed = resolve_elsewhere(hub.url, tmp_path, revision="v1")
    assert printed == [fingerprint(nano_base, BASE_PARTS), COMMIT, "False"]
    assert "/api/models/me/nano/revision/v1" in hub.asked
    fetched = {path.rpartition("/resolve/")[2].partition("/")[2] for path in hub.asked}
    assert "vae/config.json" in fetched
    assert not fetched & {"README.md", "vae/weights.bin"}


@pytest.mark.parametrize(
    ("status", "kind", "sentence"),
    [
        (404, "ConfigError", "is neither a folder nor a model that the hub can give: 404"),
        (503, "TransientError", "the hub is too busy to give me/nano"),
    ],
)
def test_a_hub_that_refuses_is_reported_by_who_must_act(
    hub: Hub, tmp_path: Path, status: int, kind: str, sentence: str
) -> None:
    hub.status = status
    first = resolve_elsewhere(hub.url, tmp_path)[0]
    assert first.startswith(kind)
    assert sentence in first


@pytest.mark.parametrize("status", [403, 503])
def test_the_password_of_a_mirror_is_not_shown(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.status = status
    said = "\n".join(resolve_elsewhere(hub.url.replace("://", "://me:hunter2@"), tmp_path))
    assert "me/nano" in said
    assert "hunter2" not in said


def test_a_served_version_does_not_show_the_password_of_a_mirror(hub: Hub, tmp_path: Path) -> None:
    """What serves it stands alone, so it has its own words for what the hub says."""
    hub.status = 403
    program = (
        "import traceback\n"
        "from types import SimpleNamespace\n"
        "from tasks.registry.serving import _find_base\n"
        "settings = SimpleNamespace(base='me/nano', revision=None)\n"
        "try:\n    _find_base(settings)\n"
        "except Exception:\n    print(traceback.format_exc())\n"
    )
    endpoint = hub.url.replace("://", "://me:hunter2@")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "the hub did not give me/nano at its newest revision: " in done.stdout
    assert "://***@127.0.0.1" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_a_hub_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    first = resolve_elsewhere("http://127.0.0.1:9", tmp_path)[0]
    assert first.startswith('ConfigError base.path = "me/nano" is neither a folder nor a model')


def test_the_fingerprint_is_of_contents_only(nano_base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(nano_base, copy)
    (copy / "vae" / "README.md").write_text("words", encoding="utf-8")
    (copy / "vae" / ".aside-1-config.json").write_text("{", encoding="utf-8")
    assert fingerprint(copy, VAE_PARTS) == fingerprint(nano_base, VAE_PARTS)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "config.json"])
def test_other_bytes_of_the_same_size_change_the_fingerprint(
    nano_base: Path, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(nano_base, copy)
    path = copy / "vae" / name
    data, before = path.read_bytes(), path.stat()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    assert path.stat().st_size == before.st_size
    retrained = fingerprint(copy, VAE_PARTS)
    assert retrained != fingerprint(nano_base, VAE_PARTS)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 2_000_000_000))
    assert fingerprint(copy, VAE_PARTS) == fingerprint(nano_base, VAE_PARTS)


@pytest.mark.parametrize("change", ["bytes", "name", "extra"])
def test_any_change_of_contents_changes_the_fingerprint(
    nano_base: Path, tmp_path: Path, change: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(nano_base, copy)
    before = fingerprint(copy, VAE_PARTS)
    config, weights = copy / "vae/config.json", copy / "vae/diffusion_pytorch_model.safetensors"
    if change == "bytes":
        config.write_bytes(config.read_bytes() + b"\n")
    elif change == "name":
        weights.rename(weights.with_stem("other"))
    else:
        shutil.copy(weights, weights.with_stem("second"))
    assert fingerprint(copy, VAE_PARTS) != before
    assert fingerprint(copy, ("transformer",)) == fingerprint(nano_base, ("transformer",))


def test_a_missing_part_is_named(nano_base: Path) -> None:
    with pytest.raises(ConfigError, match="image_encoder/ is missing"):
        fingerprint(nano_base, ("vae", "image_encoder"))


def test_a_base_is_the_one_that_it_was_or_both_are_named(nano_base: Path, tmp_path: Path) -> None:
    wanted, hashes = fingerprint(nano_base, BASE_PARTS), FileHashes()
    copy = tmp_path / "models--me--nano" / "snapshots" / COMMIT
    shutil.copytree(nano_base, copy)
    require_base(copy, wanted, revision="b" * 40, hashes=hashes)
    config = copy / "vae/config.json"
    config.write_bytes(config.read_bytes() + b"\n")
    with pytest.raises(IntegrityError) as caught:
        require_base(copy, wanted, revision="b" * 40, hashes=hashes)
    found = fingerprint(copy, BASE_PARTS)
    sentence = str(caught.value)
    assert f"{copy} (fingerprint {found[:16]}, revision {COMMIT}) is not" in sentence
    assert f"the base (fingerprint {wanted[:16]}, revision {'b' * 40})" in sentence
    with pytest.raises(ConfigError, match="is not a complete CogVideoX model"):
        require_base(tmp_path, wanted)
