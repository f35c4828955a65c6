"""The commit of the code, from a checkout or from what pip wrote down."""

import json
import subprocess
from importlib.metadata import Distribution
from pathlib import Path

from tasks.code import Commit, commit_of_checkout, commit_of_installation

SHA = "a" * 40


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", *who, "-C", str(folder), *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_checkout_tells_its_commit_and_whether_files_were_changed(tmp_path: Path) -> None:
    assert commit_of_checkout(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert commit_of_checkout(tmp_path) is None
    file = tmp_path / "file"
    file.write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "one")
    sha = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "notes").write_text("git does not know these")
    assert commit_of_checkout(tmp_path) == Commit(sha)
    file.write_text("two")
    assert str(commit_of_checkout(tmp_path)) == f"{sha}-dirty"
    inside = tmp_path / "site-packages"
    inside.mkdir()
    assert commit_of_checkout(inside) is None


def test_an_installation_tells_what_pip_wrote_down(tmp_path: Path) -> None:
    folder = tmp_path / "cogvx-1.dist-info"
    folder.mkdir()
    distribution = Distribution.at(folder)
    assert commit_of_installation(distribution) is None
    record = folder / "direct_url.json"
    record.write_text(
        json.dumps({"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": SHA}})
    )
    assert commit_of_installation(distribution) == Commit(SHA)
    record.write_text(json.dumps({"url": "file:///x", "dir_info": {"editable": True}}))
    assert commit_of_installation(distribution) is None
