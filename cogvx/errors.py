"""The exceptions of this project; the type says who acts.

CogvxError
  UserError            the person who wrote the recipe or brought the clips
    ConfigError        ... by editing a recipe or a setting; carries every problem at once
    DataError          ... by mending, adding or removing clips
  IntegrityError       nobody yet: bytes are not what their name says, so they are refused
  TrainingDiverged     the owner of the recipe, after looking at the curves
  TransientError       nobody: try again
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cogvx.addresses import without_passwords


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it stands, what stands there, how it is wrong, what to use.

    `value` is shown as TOML would write it; an empty `use` means that no better value is known.
    Passwords in addresses are left out.
    """

    where: str
    value: object
    wrong: str
    use: str = ""

    def __str__(self) -> str:
        """`where = value is wrong; use this`."""
        subject = self.where if self.value is None else f"{self.where} = {as_toml(self.value)}"
        text = f"{subject} {self.wrong}" + (f"; {self.use}" if self.use else "")
        return without_passwords(text)


def as_toml(value: object) -> str:
    """Write a plain value the way a person wrote it in the recipe."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    return str(value)


class CogvxError(Exception):
    """Root of all errors that this project raises on purpose.

    `exit_code` is what a command that ends with this error returns to the shell.
    """

    exit_code = 1


class UserError(CogvxError):
    """A person can mend this, and the message says how."""

    exit_code = 2


class ConfigError(UserError):
    """A recipe or a setting is wrong; `problems` lists every fault that was found."""

    def __init__(self, subject: str, problems: Sequence[Problem] = ()) -> None:
        """`subject` names the document, or is the whole sentence when there are no problems."""
        self.subject = subject
        self.problems = tuple(problems)
        lines = [f"{subject}: {len(self.problems)} problem(s)"] if self.problems else [subject]
        super().__init__("\n".join(lines + [f"  - {problem}" for problem in self.problems]))


class DataError(UserError):
    """Clips or captions cannot be used as they are."""


class IntegrityError(CogvxError):
    """Bytes differ from what their name or card promises; they are never used."""

    exit_code = 3


class TrainingDiverged(CogvxError):  # noqa: N818 - the name that the contract gives
    """The loss or the gradients stopped being finite; the last good checkpoint is kept."""

    exit_code = 4


class TransientError(CogvxError):
    """The same call may succeed later; the only kind of error that is retried."""

    exit_code = 75


_BY_NAME: dict[str, type[CogvxError]] = {
    kind.__name__: kind
    for kind in (
        CogvxError,
        UserError,
        ConfigError,
        DataError,
        IntegrityError,
        TrainingDiverged,
        TransientError,
    )
}


def error_from_name(kind: str, message: str) -> CogvxError:
    """Rebuild an error that another process wrote down; an unknown kind becomes the root."""
    return _BY_NAME.get(kind, CogvxError)(message)
