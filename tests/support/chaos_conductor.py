"""The conductor: lets actors go on operation by operation, kills and freezes them, starts their successors. Seeded.

All that it decides follows from its seed and from where the actors stand, never from a time. Exact points (killed at
an operation, frozen in front of it) replay exactly; a process killed in flight, or two that go at once, leave it to
the machine what comes first, which is what they are for.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tests.support.chaos_actor import Actor
from tests.support.chaos_gate import Verdict

_NONCE = re.compile(r"-[0-9a-f]{16}\b")
_MAY_FAIL = re.compile(r"/log\b|/blobs/")
"""Operations that the product retries; of others a failure ends a coordinator, which `Fate` does better."""

_TOGETHER = 0.3
_MOST_STARTS = 40


@dataclass(frozen=True)
class Fate:
    """What happens to one actor.

    Attributes:
        action: `kill` where it waits; `kill_in_flight` while the operation is under way; `freeze` in front of an
            operation; `rival`: nothing, but its successor starts while it goes on.
        at: after that many operations of its own, or at the first one that this pattern finds.
    """

    action: Literal["kill", "kill_in_flight", "freeze", "rival"]
    at: int | str


class Conductor:
    """One life of a log, or run, under faults.

    Args:
        seed: of all that is drawn.
        start: starts an actor of that name.
        faults: chance of an operation to fail, half of them after it has happened.

    Attributes:
        budget: what struck: kills, freezes, thaws, thaws of superseded actors, faults, and orphans that they excuse.
        events: what was done, in order.
        actors: all that were started.
    """

    def __init__(self, seed: int, start: Callable[[str], Actor], *, faults: float = 0.0) -> None:
        self.budget: Counter[str] = Counter()
        self.events: list[str] = []
        self.actors: list[Actor] = []
        self._random = random.Random(seed)
        self._start = start
        self._faults = faults
        self._awake: list[Actor] = []
        self._frozen: list[Actor] = []
        self.seed = seed

    def conduct(self, fates: Sequence[Fate], *, until: Container[object]) -> None:
        """Give each fate an actor, then let one come to its end, then thaw who is still frozen.

        Args:
            fates: in order.
            until: outcomes after which no further actor has to be started.

        Raises:
            AssertionError: an actor hangs, crashes, or nobody finishes; seed and events are in its notes.
        """
        try:
            for fate in fates:
                self._live(self._new(), fate)
                for actor in [each for each in self._frozen if self._is_superseded(each)]:
                    if self._random.random() < 0.5:
                        self._thaw(actor)
            while not any(actor.outcome in until for actor in self.actors):
                assert len(self.actors) < len(fates) + _MOST_STARTS, "nobody finishes"
                self._new()
                self._run_dry()
            for actor in list(self._frozen):
                self._thaw(actor)
            self._run_dry()
        except BaseException as error:
            error.add_note(self.story())
            raise
        finally:
            for actor in self.actors:
                actor.kill()

    @property
    def stale(self) -> list[dict[str, Any]]:
        """What writers were told to have published in or behind the slot of a successor's claim."""
        told = [entry for actor in self.actors for entry in actor.acknowledged]
        claims = [entry for entry in told if entry["kind"] == "claim"]
        return [
            entry
            for entry in told
            if any(claim["term"] > entry["term"] and claim["seq"] <= entry["seq"] for claim in claims)
        ]

    def story(self) -> str:
        """Seed, budget and events, for messages."""
        told = [f"{a.name}: {a.outcome} {'; '.join(a.told)} {a.crash or ''}" for a in self.actors]
        return "\n".join(
            [
                f"chaos: ORCHESTRATOR_SEED={self.seed} replays this",
                f"{dict(self.budget)}",
                *self.events,
                "outcomes:",
                *told,
            ]
        )

    def _new(self) -> Actor:
        actor = self._start(f"actor-{len(self.actors)}")
        self.actors.append(actor)
        self._awake.append(actor)
        self.budget["starts"] += 1
        self.events.append(f"start {actor.name}")
        self._hear(actor)
        return actor

    def _live(self, actor: Actor, fate: Fate) -> None:
        """Let all who are awake go on until the fate of `actor` comes, or it ends before."""
        done = 0
        while actor in self._awake:
            at = actor.waiting_at or ""
            if done >= fate.at if isinstance(fate.at, int) else re.search(fate.at, at):
                self._strike(actor, fate.action)
                return
            done += actor in self._turn(favourite=actor)

    def _strike(self, actor: Actor, action: str) -> None:
        self.events.append(f"{action} {actor.name} at {_readable(actor.waiting_at)}")
        if action == "rival":
            self.budget["rivals"] += 1
            return
        self._awake.remove(actor)
        if action == "freeze":
            self.budget["freezes"] += 1
            actor.freeze()
            self._frozen.append(actor)
            return
        self.budget["kills"] += 1
        self.budget["excused"] += 1
        if action == "kill_in_flight":
            self.budget["kills_in_flight"] += 1
            actor.go()
        actor.kill()

    def _thaw(self, actor: Actor) -> None:
        self.budget["thaws"] += 1
        self.budget["excused"] += 1
        superseded = self._is_superseded(actor)
        if superseded:
            self.budget["superseded_thaws"] += 1
        self.events.append(f"thaw {actor.name}{', superseded' if superseded else ''}")
        self._frozen.remove(actor)
        self._awake.append(actor)
        actor.thaw()
        self._hear(actor)

    def _is_superseded(self, actor: Actor) -> bool:
        return 0 < actor.term < max(each.term for each in self.actors)

    def _run_dry(self) -> None:
        while self._awake:
            self._turn(favourite=self._random.choice(self._awake))

    def _turn(self, favourite: Actor) -> list[Actor]:
        """One operation of one actor, or of two at once; returns who went."""
        chosen = favourite if self._random.random() < 0.6 else self._random.choice(self._awake)
        others = [actor for actor in self._awake if actor is not chosen]
        together = [self._random.choice(others)] if others and self._random.random() < _TOGETHER else []
        went = [chosen, *together]
        for actor in went:
            actor.go(self._verdict(actor))
        for actor in went:
            self._hear(actor)
        return went

    def _verdict(self, actor: Actor) -> Verdict:
        at = actor.waiting_at or ""
        if self._random.random() >= self._faults or at.startswith("created") or not _MAY_FAIL.search(at):
            return "go"
        verdict: Verdict = self._random.choice(["unsent", "lost"])
        self.budget["faults"] += 1
        self.budget["excused"] += at.startswith("put") and verdict == "lost"
        self.events.append(f"{verdict} {actor.name} {_readable(at)}")
        return verdict

    def _hear(self, actor: Actor) -> None:
        actor.wait()
        if actor.has_ended:
            self._awake.remove(actor)
            self.events.append(f"end {actor.name}: {actor.outcome}")
            assert actor.crash is None, f"{actor.name} crashed:\n{actor.crash}"
            assert actor.exit_code == 0, f"{actor.name} ended with {actor.exit_code}"
            self.budget["fenced"] += actor.outcome == 75
            self.budget["excused"] += actor.outcome == 75


def _readable(operation: str | None) -> str:
    return _NONCE.sub("", operation or "")
