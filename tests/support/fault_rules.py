"""What goes wrong on the way to an S3 server: effects, rules that say when, and a ledger of what they struck."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias


@dataclass(frozen=True)
class Status:
    """The request is answered with an error, and not passed on."""

    status: int = 503
    code: str = "SlowDown"
    message: str = "an injected fault"


@dataclass(frozen=True)
class Delay:
    """The request is passed on later."""

    seconds: float


@dataclass(frozen=True)
class Hang:
    """The request is taken, and no byte comes back. `FaultProxy.release` passes it on, however late that is."""


@dataclass(frozen=True)
class Reset:
    """The connection is reset before anything is passed on."""


@dataclass(frozen=True)
class ResetAfter:
    """The connections on both sides are reset after so many bytes of the upload."""

    num_bytes: int


@dataclass(frozen=True)
class LostResponse:
    """The server acts, and the client gets a reset instead of its answer."""


@dataclass(frozen=True)
class Truncate:
    """The client gets the first half of the response's body.

    Args:
        announced: its Content-Length agrees, so that only the content can tell; else the connection ends early.
    """

    announced: bool = True


@dataclass(frozen=True)
class Corrupt:
    """One bit in the middle of the response's body is flipped."""


@dataclass(frozen=True)
class CorruptUpload:
    """One bit in the middle of the request's body is flipped."""


@dataclass(frozen=True)
class Throttle:
    """Upload and response go at this rate."""

    bytes_per_s: float


Effect: TypeAlias = (
    Status | Delay | Hang | Reset | ResetAfter | LostResponse | Truncate | Corrupt | CorruptUpload | Throttle
)


@dataclass(frozen=True)
class Rule:
    """When an effect strikes. Of several rules that would, the first one does.

    Args:
        effect: what happens.
        method: of the requests meant, as a regular expression.
        key: regular expression, searched for in path and query, such as `/bucket/prefix/key?partNumber=2`.
        times: how often it strikes at most; None is without end.
        skip: how many of the requests meant are let through first.
        probability: chance of each later one to be struck, by the ledger's seed.
    """

    effect: Effect
    method: str = ".*"
    key: str = ""
    times: int | None = None
    skip: int = 0
    probability: float = 1.0

    def means(self, method: str, target: str) -> bool:
        """Whether the rule is about such a request."""
        return re.fullmatch(self.method, method) is not None and re.search(self.key, target) is not None


@dataclass(frozen=True)
class Seen:
    """One request, and the rule that struck it."""

    method: str
    target: str
    struck_by: Rule | None


class _Installed:
    """A rule in force, with how many requests it has met and struck."""

    def __init__(self, rule: Rule, draw: random.Random) -> None:
        self.rule = rule
        self._draw = draw
        self._met = 0
        self._struck = 0

    def strikes(self, method: str, target: str) -> bool:
        rule = self.rule
        if not rule.means(method, target) or (rule.times is not None and self._struck >= rule.times):
            return False
        self._met += 1
        if self._met <= rule.skip or self._draw.random() >= rule.probability:
            return False
        self._struck += 1
        return True


class Ledger:
    """The rules in force and everything they met; safe for threads.

    Args:
        seed: fixes which of the requests a rule meets it strikes, so that a failure replays.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._changed = threading.Condition()
        self._in_force: list[_Installed] = []
        self._ever: list[Rule] = []
        self._seen: list[Seen] = []

    def replace(self, rules: Iterable[Rule]) -> None:
        """Put these rules in force instead of those before; their counts start at nothing."""
        with self._changed:
            self._in_force = []
            for rule in rules:
                self._in_force.append(_Installed(rule, random.Random(f"{self.seed}/{len(self._ever)}")))
                self._ever.append(rule)

    def strike(self, method: str, target: str) -> Effect | None:
        """Note a request; the effect that it suffers, if any."""
        with self._changed:
            rule = next((each.rule for each in self._in_force if each.strikes(method, target)), None)
            self._seen.append(Seen(method, target, rule))
            self._changed.notify_all()
        return rule.effect if rule else None

    def seen(self, method: str = ".*", key: str = "") -> list[Seen]:
        """The requests so far, in order; only those that a rule with this method and key would mean."""
        meant = Rule(Reset(), method, key)
        with self._changed:
            return [each for each in self._seen if meant.means(each.method, each.target)]

    def fired(self, rule: Rule) -> int:
        """How many requests the rule has struck, whenever it was in force."""
        with self._changed:
            return sum(each.struck_by == rule for each in self._seen)

    def wait_until_fired(self, rule: Rule, times: int = 1, *, timeout_s: float = 180.0) -> None:
        """Wait for the rule's strike. Raises AssertionError when it does not come in time."""
        with self._changed:
            fired = self._changed.wait_for(
                lambda: sum(each.struck_by == rule for each in self._seen) >= times, timeout_s
            )
        assert fired, f"{rule} did not strike {times} times in {timeout_s} s\n{self.table()}"

    def check_fired(self) -> None:
        """Raises AssertionError naming each rule that was in force and never struck: its test proves nothing."""
        idle = [rule for rule in self._ever if not self.fired(rule)]
        assert not idle, f"these faults never struck: {idle}\n{self.table()}"

    def table(self) -> str:
        """The seed, what each rule struck, and the requests in order."""
        with self._changed:
            hits = Counter(each.struck_by for each in self._seen)
            lines = [f"fault proxy, seed {self.seed}: {len(self._seen)} requests"]
            lines += [f"{hits[rule]:6} × {rule}" for rule in dict.fromkeys(self._ever)]
            for each, same in groupby(self._seen):
                struck = f"   ← {each.struck_by.effect}" if each.struck_by else ""
                lines.append(f"{len(list(same)):6} × {each.method} {each.target}{struck}")
        return "\n".join(lines)
