"""Whoever is paged searches the runbook for what is printed: so each message of it is in a source.

Ours are looked up in this project, the others where the page says: `message` (Prefect). Three dots
stand for what differs from time to time.
"""

import ast
import errno
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from cogvx.data.ingest import _require_enough as require_enough
from cogvx.data.manifest import Rejected
from cogvx.errors import CogvxError
from cogvx.housekeeping.documents import read_kept
from cogvx.model.identity import download
from cogvx.recipe_sections import DatasetConfig
from cogvx.runs.disk import explained
from cogvx.runs.folder import RunFolder, RunSpec
from cogvx.runs.lock import hold
from cogvx.store import LocalStore
from tasks.clients.ending import Ended, outcome_of
from tasks.clients.runs import Runs
from tasks.clients.s3_errors import translate
from tasks.settings import prepare_process, settings

ROOT = Path(__file__).parents[1]
GAP = "..."
# Where others' words stand; the CUDA build of torch is not needed for its headers.
PLACES = {
    "Prefect": ("prefect", "**/*.py"),
    "anyio": ("anyio", "**/*.py"),
    "torch": ("torch", "include/torch/csrc/distributed/c10d/*.hpp"),
}
LINUX = {os.strerror(number) for number in errno.errorcode}
# One text literal after another is one text; what is put in is a gap.
_JOIN = re.compile(r"[\"']\s*\\?\n\s*[rbuf]{0,2}[\"']")
_FIELD = re.compile(r"\{[^{}\n]*\}|%[sdgfr.0-9]+")
_CODE = re.compile(r"`([^`]+)`(?: \((\w+)\))?")


def rows() -> Iterator[tuple[str, ...]]:
    """Symptom, cause and action of every failure."""
    page = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    tables = page[page.index("## Failures") : page.index("## The store")]
    for line in tables.splitlines():
        cells = tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        if cells and cells[0] not in ("symptom", "---"):
            yield cells


def quoted(symptom: str) -> list[tuple[str, str]]:
    """Messages, each with whose it is; a variable, a file or a command that is named is none."""
    found = [(message, source or "cogvx") for message, source in _CODE.findall(symptom)]
    return [
        (message, source)
        for message, source in found
        if source != "cogvx" or ("cogvx " not in message[:6] and " " in message)
    ]


MESSAGES = [each for symptom, *_ in rows() for each in quoted(symptom)]


def plain(text: str) -> str:
    return " ".join(_FIELD.sub(GAP, text).split())


@cache
def our_texts() -> dict[Path, str]:
    """All text literals of each module, what is put into them as gaps."""
    found = {}
    for part in ("cogvx", "tasks", "flows", "deployments"):
        for path in (ROOT / part).rglob("*.py"):
            found[path] = "\n".join(map(plain, literals(ast.parse(path.read_text("utf-8")))))
    return found


def literals(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else GAP for part in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@cache
def texts_of(source: str) -> dict[Path, str]:
    if source == "cogvx":
        return our_texts()
    package, files = PLACES[source]
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    found = Path(spec.origin).parent.glob(files)
    return {path: plain(_JOIN.sub("", path.read_text("utf-8"))) for path in found}


def is_said_in(text: str, message: str) -> bool:
    """Whether a message can be put together from texts of one module, none shorter than a name."""
    return all(is_made_of(text, part.split()) for part in message.split(GAP))


def is_made_of(text: str, words: list[str]) -> bool:
    """In one piece, or in several of which each is longer than a word that stands anywhere."""
    if bare(" ".join(words)) in text:
        return True
    while words := words[next((n for n, word in enumerate(words) if bare(word)), len(words)) :]:
        taken = len(words)
        while taken and not (len(piece := bare(" ".join(words[:taken]))) > 5 and piece in text):
            taken -= 1
        if not taken:
            return False
        words = words[taken:]
    return True


def bare(text: str) -> str:
    return text.strip(" =:;,.\"'()")


@pytest.mark.parametrize(("message", "source"), MESSAGES)
def test_what_the_runbook_quotes_is_printed(message: str, source: str) -> None:
    if source == "Linux":
        assert message in LINUX
        return
    found = any(is_said_in(text, message) for text in texts_of(source).values())
    assert found, f"no module of {source} says {message!r}; was it changed?"


@pytest.mark.parametrize(
    "message",
    ["no worker polls work pool ...; begin one", "its run was eaten", "a sentence of nobody's"],
)
def test_a_message_that_was_changed_is_noticed(message: str) -> None:
    assert not any(is_said_in(text, message) for text in our_texts().values())


def test_the_runbook_has_symptom_cause_and_action_of_many_failures() -> None:
    found = list(rows())
    assert {len(cells) for cells in found} == {3}
    assert all(cell for cells in found for cell in cells)
    assert sum(bool(quoted(symptom)) for symptom, *_ in found) >= 50
    assert len({message for message, _ in MESSAGES}) == len(MESSAGES)


# Some of them, provoked


def pattern(message: str) -> str:
    return ".*?".join(re.escape(" ".join(part.split())) for part in message.split(GAP))


def is_answered(printed: str) -> bool:
    """Whether somebody who reads this finds it in the runbook."""
    said = " ".join(printed.split())
    return any(re.search(pattern(message), said) for message, _ in MESSAGES)


def held(folder: Path) -> None:
    with hold(folder / "run.lock"), hold(folder / "run.lock"):
        pass


def disk(number: int) -> Callable[[Path], None]:
    def fail(folder: Path) -> None:
        with explained(RunFolder(folder)):
            raise OSError(number, os.strerror(number), str(folder))

    return fail


def trainer_ended(code: int) -> Callable[[Path], None]:
    return lambda folder: outcome_of(RunFolder(folder), Ended(code, "words")) and None


def s3_says(code: str) -> Callable[[Path], None]:
    def fail(folder: Path) -> None:
        error = ClientError({"Error": {"Code": code}}, "GetObject")
        raise translate(error, "s3://bucket at https://example.com", "records/1")

    return fail


def unreachable_s3(folder: Path) -> None:
    raise translate(EndpointConnectionError(endpoint_url="x"), "s3://bucket", "records/1")


def failing_disk(folder: Path) -> None:
    (folder / "clip.txt").symlink_to("/proc/self/mem")  # its first page may not be read
    LocalStore(folder).read("clip.txt")


def no_database(folder: Path) -> None:
    (folder / "mlflow.db").write_text("this is no database" * 100)
    Runs(f"sqlite:///{folder / 'mlflow.db'}")


def no_home(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGVX_HOME", str(folder / "file" / "home"))
        settings.cache_clear()
        prepare_process()


def setting(name: str, value: str) -> Callable[[Path], None]:
    def fail(_folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value)
            settings.cache_clear()
            settings()

    return fail


def foreign_document(folder: Path) -> None:
    store = LocalStore(folder)
    store.write("runs/1/run.json", b"{}")
    read_kept(store, "runs/1/run.json", RunSpec)


def bad_delivery(folder: Path) -> None:
    rejected = [Rejected(key=f"{n}.mp4", reason="black", detail="dark") for n in range(3)]
    config = DatasetConfig.model_validate({"uri": "clips"})
    require_enough("file:///clips", 1, rejected, config)


def no_such_base(folder: Path) -> None:
    download("a/b/c", None, wanted=["*"], where="base.path")


PROVOKED = {
    "two processes train one run": held,
    "disk full": disk(errno.ENOSPC),
    "disk closed": disk(errno.EROFS),
    "killed": trainer_ended(128 + 9),
    "crashed": trainer_ended(128 + 11),
    "no word": trainer_ended(1),
    "no bucket": s3_says("NoSuchBucket"),
    "no right": s3_says("AccessDenied"),
    "clock skew": s3_says("RequestTimeTooSkewed"),
    "S3 is away": unreachable_s3,
    "a mount is away": failing_disk,
    "MLflow's database": no_database,
    "home": no_home,
    "device": setting("COGVX_DEVICE", "gpu"),
    "prices": setting("COGVX_POOL_PRICES", "2.5 in gpu-train"),
    "foreign document": foreign_document,
    "bad delivery": bad_delivery,
    "no such base": no_such_base,
}


@pytest.mark.parametrize("failure", PROVOKED)
def test_what_a_failure_prints_is_found_in_the_runbook(failure: str, tmp_path: Path) -> None:
    try:
        with pytest.raises(CogvxError) as caught:
            PROVOKED[failure](tmp_path)
    finally:
        settings.cache_clear()
    assert is_answered(str(caught.value)), caught.value


def test_what_nothing_prints_is_not_found_in_it() -> None:
    assert not is_answered("MLflow is tired")
