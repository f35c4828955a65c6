"""The aliases of a registered model, moved by compare-and-set.

A move is decided by creating the next entry of the model's journal in the store; MLflow's aliases
are then brought to what it says. Whoever comes next finishes what was not finished. What a person
moved in MLflow itself is adopted and written down, never undone. docs/decisions/0007 has the races.
"""

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException

from cogvx.errors import ConfigError, TransientError, UserError
from cogvx.store import MemoryStore, ObjectStore
from tasks.clients.journal import Act, AliasMove, Journal, Reason, Standing, new_entry
from tasks.clients.runs import Runs

logger = logging.getLogger(__name__)

CHALLENGER = "challenger"
CHAMPION = "champion"
PREVIOUS_CHAMPION = "previous_champion"
ALIASES = (CHALLENGER, CHAMPION, PREVIOUS_CHAMPION)
"""Those that are ours; other aliases are other people's, and are not looked at."""

DECISION_TAG = "cogvx.decision"
"""On the registered model: the newest decision whose aliases were brought to MLflow."""

# Long before others stop believing that our hand is up; a call to MLflow may take minutes.
_HAND_IS_OLD_SECONDS = 600.0
_FINISHING_TRIES = 6
_PAUSE_SECONDS = 0.05

Decide = Callable[[Mapping[str, int]], Mapping[str, int] | None]
"""What the aliases shall be, given what they are; None leaves them, and an error refuses."""


@dataclass(frozen=True)
class _Seen:
    """What MLflow says of a registered model: when it was made, our aliases, DECISION_TAG."""

    born: str
    aliases: Mapping[str, int]
    decision: int


class Aliases(Runs):
    """Aliases at one MLflow, beside its runs."""

    def __init__(
        self,
        tracking_uri: str,
        artifact_root: Path | None = None,
        store: ObjectStore | None = None,
    ) -> None:
        """As for `Runs`; `store` keeps the journals.

        Without one they last as long as this object, and only its users are kept apart.
        """
        super().__init__(tracking_uri, artifact_root)
        self._store: ObjectStore = MemoryStore() if store is None else store

    def aliases(self, name: str) -> dict[str, int]:
        """Version by alias as MLflow has them; empty for a model that is not there."""
        seen = self._seen(name)
        return {} if seen is None else dict(seen.aliases)

    def history(self, name: str) -> list[AliasMove]:
        """Every decision about a model's aliases, oldest first."""
        seen = self._seen(name)
        return [] if seen is None else Journal(self._store, name, seen.born).history()

    def is_settled(self, name: str) -> bool:
        """Whether MLflow's aliases are those of the newest decision; looks and changes nothing."""
        seen = self._seen(name)
        if seen is None:
            return True
        newest = Journal(self._store, name, seen.born).newest()
        return seen.aliases == newest.aliases and seen.decision >= newest.seq

    def challenge(self, name: str, version: int, reason: Reason) -> AliasMove | None:
        """Point CHALLENGER at a version, unless it is at a newer one already."""

        def decide(now: Mapping[str, int]) -> Mapping[str, int] | None:
            if now.get(CHALLENGER, 0) >= version:
                return None
            return {**now, CHALLENGER: version}

        return self.move(name, decide, act="registered", version=version, reason=reason)

    def crown(
        self, name: str, version: int, *, expected_champion: int | None, reason: Reason
    ) -> AliasMove | None:
        """Point CHAMPION at a version, and PREVIOUS_CHAMPION at the one that it was at.

        Raises:
            UserError: The champion is neither this version nor the one that the caller expects.
        """

        def decide(now: Mapping[str, int]) -> Mapping[str, int] | None:
            champion = now.get(CHAMPION)
            if champion == version:
                return None
            if champion != expected_champion:
                raise UserError(
                    f"{name}: version {version} was judged against champion {expected_champion}, "
                    f"but the champion is now {champion}; evaluate it against that one"
                )
            kept = {} if champion is None else {PREVIOUS_CHAMPION: champion}
            return {**now, **kept, CHAMPION: version}

        return self.move(name, decide, act="promoted", version=version, reason=reason)

    def roll_back(self, name: str, *, expected_champion: int | None, reason: Reason) -> AliasMove:
        """Swap CHAMPION and PREVIOUS_CHAMPION.

        Args:
            name: The registered model.
            expected_champion: Whom the caller wants to be rid of, so that of two people who roll
                back at the same time one is told, rather than both getting what they had.
            reason: Why.

        Raises:
            UserError: There is no previous champion, or it is the champion itself, or the champion
                moved since the caller looked.
        """

        def decide(now: Mapping[str, int]) -> Mapping[str, int] | None:
            champion, previous = now.get(CHAMPION), now.get(PREVIOUS_CHAMPION)
            if champion != expected_champion:
                raise UserError(
                    f"{name}: version {expected_champion} was to be rolled back, but the champion "
                    f"is now {champion}; look again with `cogvx models show {name}`"
                )
            if champion is None or previous is None:
                raise UserError(
                    f"{name} has no previous champion to go back to; `cogvx models promote` makes "
                    "any version the champion"
                )
            return {**now, CHAMPION: previous, PREVIOUS_CHAMPION: champion}

        made = self.move(name, decide, act="rolled back", version=expected_champion, reason=reason)
        if made is None:
            raise UserError(
                f"{name}: the previous champion is version {expected_champion} itself, so there is "
                "none to go back to; `cogvx models promote` makes any version the champion"
            )
        return made

    def move(
        self, name: str, decide: Decide, *, act: Act, version: int | None, reason: Reason
    ) -> AliasMove | None:
        """Decide on the aliases as they are at that moment, and bring MLflow there.

        `decide` is asked again whenever somebody else decided first. It may name versions that are
        not there: that is found out before anything is written.

        Returns:
            The decision, which has been carried out; None if it was to leave things as they are.

        Raises:
            ConfigError: There is no such model, or no such version.
            TransientError: MLflow or the store did not answer. The message says so if the decision
                is made all the same: then the next move carries it out.
        """
        tries = 0
        while True:
            journal, standing = self._settle(name)
            after = decide(standing.aliases)
            if after is None or after == standing.aliases:
                return None
            for new in set(after.values()) - set(standing.aliases.values()):
                self._require_version(name, new)
            entry = new_entry(name, standing, after, act=act, version=version, reason=reason)
            if journal.append(entry):
                self._finish(name, entry)
                return entry
            tries += 1
            self._pause(tries)

    def settle(self, name: str) -> None:
        """Carry out what is decided and not in MLflow yet, and adopt what others moved there.

        Raises:
            ConfigError: There is no such model.
            TransientError: MLflow or the store did not answer.
        """
        self._settle(name)

    def _require_version(self, name: str, version: int) -> None:
        """Refuse a version that is not there, as no alias could ever be brought to it."""
        with self._asking(f"find version {version} of {name}"):
            try:
                self._client.get_model_version(name, str(version))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise ConfigError(
                    f"{name} has no version {version}; `cogvx models list {name}` shows them"
                ) from None

    def _finish(self, name: str, entry: AliasMove) -> None:
        """Carry out a decision that is made; a failure here must not look like a refusal."""
        for tries in range(1, _FINISHING_TRIES + 1):
            try:
                self._settle(name)
                return
            except TransientError as error:
                if tries == _FINISHING_TRIES:
                    raise TransientError(
                        f"decision {entry.seq} about {name} is made and kept, but not carried out "
                        "in MLflow yet; the next move of its aliases does that, so do not repeat "
                        f"this one: {error}"
                    ) from error
                self._pause(2**tries)

    def _settle(self, name: str) -> tuple[Journal, Standing]:
        """Bring MLflow to the newest decision, and adopt what was moved there by others.

        Returns:
            The journal, and how the aliases stand in both.
        """
        journal = Journal(self._store, name, self._see(name).born)
        mine: list[str] = []
        raised = 0.0
        while True:
            # In this order: whoever is late with an older decision raised a hand before the newest
            # one was made, so that hand is seen here, or what it did has been mended.
            newest = journal.newest()
            others = journal.hands(but=mine)
            seen = self._see(name, born=journal.born)
            if seen.decision > newest.seq and journal.newest().seq != newest.seq:
                continue  # more was decided and carried out while we looked
            standing = Standing(max(newest.seq, seen.decision), newest.aliases)
            outside = _moved_outside(journal, newest, seen, others)
            if outside is not None:
                self._adopt(journal, standing, outside)
            elif seen.aliases == newest.aliases and seen.decision >= newest.seq:
                for key in mine:
                    journal.lower_hand(key)
                return journal, standing
            elif time.monotonic() - raised > _HAND_IS_OLD_SECONDS or not mine:
                mine.append(journal.raise_hand(newest.seq))
                raised = time.monotonic()
            else:
                gone = self._carry_out(name, newest, seen)
                if gone:
                    self._adopt(journal, standing, _as_seen(newest, seen, gone))

    def _adopt(self, journal: Journal, standing: Standing, outside: Mapping[str, int]) -> None:
        """Write down what a person moved in MLflow; if somebody was faster, they did or will."""
        began = not standing.seq
        why = "found so when the journal began" if began else "moved in MLflow, not by cogvx"
        entry = new_entry(
            journal.model,
            standing,
            outside,
            act="moved outside",
            version=None,
            reason=Reason(why, who="unknown"),
        )
        if journal.append(entry):
            logger.info("aliases of %s adopted as MLflow has them: %s", journal.model, entry.after)

    def _carry_out(self, name: str, newest: Standing, seen: _Seen) -> list[str]:
        """Bring MLflow's aliases to a decision, and say so last.

        Returns:
            Those that stayed where they are, as the version that they were to go to was deleted.
        """
        gone = []
        with self._asking(f"move the aliases of {name}"):
            for alias in ALIASES:
                version = newest.aliases.get(alias)
                if version == seen.aliases.get(alias):
                    continue
                if version is None:
                    self._client.delete_registered_model_alias(name, alias)
                    continue
                try:
                    self._client.set_registered_model_alias(name, alias, str(version))
                except MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
                    gone.append(alias)
            self._client.set_registered_model_tag(name, DECISION_TAG, str(newest.seq))
        return gone

    def _see(self, name: str, born: str | None = None) -> _Seen:
        seen = self._seen(name)
        if seen is None:
            raise ConfigError(f"MLflow has no registered model {name}")
        if born is not None and seen.born != born:
            raise TransientError(
                f"{name} was deleted and made again in MLflow meanwhile; try again"
            )
        return seen

    def _seen(self, name: str) -> _Seen | None:
        with self._asking(f"read the aliases of {name}"):
            try:
                model = self._client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
            numbers = {alias: int(number) for alias, number in model.aliases.items()}
            text = model.tags.get(DECISION_TAG, "")
            return _Seen(
                born=str(model.creation_timestamp),
                aliases={alias: numbers[alias] for alias in ALIASES if alias in numbers},
                decision=int(text) if text.isascii() and text.isdigit() else 0,
            )

    @staticmethod
    def _pause(tries: int) -> None:
        """Let the others get on: of many that race, each would otherwise repeat the work of all."""
        time.sleep(random.uniform(0, _PAUSE_SECONDS * min(tries, 20)))  # noqa: S311 - no secret


def _moved_outside(
    journal: Journal, newest: Standing, seen: _Seen, others: list[int]
) -> Mapping[str, int] | None:
    """What the aliases are if somebody moved one that no decision accounts for; None if nobody did.

    Where the newest decision was carried out, each must be where that put it. Where it was not, or
    where others still have their hands up, it may be where any decision since then put it.
    """
    different = [a for a in ALIASES if seen.aliases.get(a) != newest.aliases.get(a)]
    if not different:
        return None
    possible = [newest]
    low = min([newest.seq, *others] + ([seen.decision] if seen.decision < newest.seq else []))
    if low < newest.seq:
        possible += journal.since(low)
    outside = [
        alias
        for alias in different
        if seen.aliases.get(alias) not in {stood.aliases.get(alias) for stood in possible}
    ]
    if not outside:
        return None
    old, kept = newest.aliases.get(CHAMPION), {}
    # As a promotion does, so that a person who went back by hand can go forth again. Only if MLflow
    # had just this decision is it known whom they took to be the champion.
    if CHAMPION in outside and old is not None and seen.decision == newest.seq:
        kept = {PREVIOUS_CHAMPION: old} if PREVIOUS_CHAMPION not in outside else {}
    return {**_as_seen(newest, seen, outside), **kept}


def _as_seen(newest: Standing, seen: _Seen, aliases: list[str]) -> dict[str, int]:
    """The newest decision's aliases, but these as MLflow has them."""
    adopted = {alias: n for alias, n in newest.aliases.items() if alias not in aliases}
    return adopted | {alias: n for alias, n in seen.aliases.items() if alias in aliases}
