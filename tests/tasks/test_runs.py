"""MLflow's address: what it holds in secret stays secret, and a new database is made once."""

import contextlib
import sqlite3
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from cogvx.errors import ConfigError, TransientError
from cogvx.store import MemoryStore
from tasks.clients.registry import Registry
from tasks.clients.runs import Runs
from tasks.clients.secrets import hold, without_secrets
from tasks.clients.versions import Version
from tests.fixtures.servers import answering, free_port

_CONNECT = """
import sys
from tasks.clients.runs import Runs
print("ready", flush=True)
sys.stdin.readline()
Runs(sys.argv[1]).ensure_experiment("style")
"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:hunter2@host:5000/path", "http://user:***@host:5000/path"),
        ("postgresql+psycopg://u:hunter2@h/db", "postgresql+psycopg://u:***@h/db"),
        ("http://:hunter2@host", "http://:***@host"),
        ("http://u:hunter2@hunter2@host", "http://u:***@host"),
        ("http://u:hunter2/hunter2@host/a", "http://u:***@host/a"),
        ("http://u:hunter2@a and 'http://v:hunter2@b'", "http://u:***@a and 'http://v:***@b'"),
        ("https://token@sentry.io/1", "https://***@sentry.io/1"),
        ("git+HTTPS://token@host/a.git", "git+HTTPS://***@host/a.git"),
        ("http://token:@host", "http://token:***@host"),
        ("https://host/@scope/a?mail=me@b", "https://host/@scope/a?mail=me@b"),
        ("ssh://git@host/a", "ssh://git@host/a"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("http://host:5000/a", "http://host:5000/a"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("mail me@host: now", "mail me@host: now"),
        ("postgresql://h/db?user=u&password=hunter2", "postgresql://h/db?user=u&password=***"),
        ("https://h/x?X-Amz-Signature=abc&a=b", "https://h/x?X-Amz-Signature=***&a=b"),
        ("postgresql://me@corp:hunter2@h/db", "postgresql://me@corp:***@h/db"),
        ("postgresql://me:it's-hunter2@h/db", "postgresql://me:***@h/db"),
    ],
)
def test_passwords_leave_a_text_and_nothing_else_does(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("http://user:hunter2@127.0.0.1:PORT", TransientError),
        ("http://user:hunter2/2@127.0.0.1:PORT", TransientError),
        ("ftp://user:hunter2@127.0.0.1:PORT", ConfigError),
        ("postgresql+absent://user:hunter2@127.0.0.1:PORT/db", ConfigError),
    ],
)
def test_no_password_is_in_an_error_or_its_traceback(
    address: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(kind) as caught:
        Runs(address.replace("PORT", str(free_port())))
    assert "://user:***@127.0.0.1:" in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("act", ["log", "list"])
@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SlowDown"])
def test_what_s3_says_of_artifacts_is_told_without_its_sentence(
    act: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where artifacts lie in S3 itself, not behind MLflow's server, MLflow asks it from here."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAPLANTED")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    said = f"<Error><Code>{code}</Code><Message>no AKIAPLANTED</Message></Error>".encode()
    answer = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: "
    file = tmp_path / "file"
    file.write_text("words")
    runs = Registry(f"sqlite:///{tmp_path}/mlflow.db", store=MemoryStore())
    runs._client.create_experiment("style", artifact_location="s3://bucket/style")
    run = runs.start_run("style", "a run", tags={})
    kind = TransientError if code == "SlowDown" else ConfigError
    with answering(answer + f"{len(said)}\r\n\r\n".encode() + said) as port:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        calls = {
            "log": lambda: runs.log_artifact(run, file),
            "list": lambda: runs.read_file(Version("style", 1, (), run, "s3://bucket/1"), "card"),
        }
        with pytest.raises(kind, match=code) as caught:
            calls[act]()
    assert "AKIAPLANTED" not in "".join(traceback.format_exception(caught.value))
    if kind is ConfigError:
        assert "AWS_ACCESS_KEY_ID" in str(caught.value)


def test_a_token_that_no_header_takes_is_a_setting_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", hold("planted-token\n"))
    with pytest.raises(ConfigError, match=r"line end.*set MLFLOW_TRACKING_TOKEN") as caught:
        Runs(f"http://127.0.0.1:{free_port()}")
    assert "planted-token" not in "".join(traceback.format_exception(caught.value))


def test_what_was_handled_before_does_not_explain_what_mlflow_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    try:
        raise ClientError({"Error": {"Code": "NoSuchBucket"}}, "PutObject")
    except ClientError:
        with pytest.raises(TransientError, match="could not connect") as caught:
            Runs(f"http://127.0.0.1:{free_port()}")
    assert "S3" not in str(caught.value)


def test_a_database_without_its_driver_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(ConfigError, match=r"pymysql.*; install the database's driver"):
        Runs(f"mysql+pymysql://127.0.0.1:{free_port()}/db")


def test_processes_that_start_together_make_one_new_database(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    command = [sys.executable, "-c", _CONNECT, address]
    racers = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        _, complaints = racer.communicate(timeout=120)
        assert racer.returncode == 0, complaints


def test_tables_that_appear_meanwhile_are_worth_another_try(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE registered_models (name TEXT)")
    with pytest.raises(TransientError, match="exists; another process is making its tables"):
        Runs(f"sqlite:///{path}")


def test_a_file_that_is_no_database_is_a_setting(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"words " * 1000)
    with pytest.raises(ConfigError, match="file is not a database"):
        Runs(f"sqlite:///{tmp_path / 'mlflow.db'}")
