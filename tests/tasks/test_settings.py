"""What the environment says is read as people mean it who fill in a form."""

import pytest

from tasks.settings import Settings


def test_what_is_empty_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"COGVX_{name.upper()}", "")
    found = Settings(_env_file=None)
    for name, field in Settings.model_fields.items():
        assert getattr(found, name) == field.get_default(call_default_factory=True), name
