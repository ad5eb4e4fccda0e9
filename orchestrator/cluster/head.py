"""Dealing with the cluster's head: which nodes live, which are being taken away, and whether it is there at all.

A head that is gone makes Ray wait: many of its calls block, without a deadline, until after a minute Ray ends the whole
process, with exit code 1 and no record. So whatever may ask the head is asked in a thread, and here the head's silence
has an end of its own, before Ray's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray

from orchestrator.cluster.autoscaling import ask_for_autoscaler
from orchestrator.errors import ClusterUnavailable
from orchestrator.planning.placement import Autoscaler, NodeShape
from orchestrator.storage.parallel import in_background

ASK_EVERY_S = 1.0
SILENCE_S = 30.0
"""How long the head may be silent: long enough for one that is restarted (with Ray's own fault tolerance), and short of
the 60 s after which Ray ends this process."""

_ANSWER_S = 5.0
_KILL_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True)
class Nodes:
    """What the head says.

    Attributes:
        alive: ids of the nodes that live.
        leaving: ids of those that will be taken away, with the UTC epoch second at which they are; None: nobody says.
        staying: what the others have: Ray starts nothing on those that are leaving.
        autoscaler: what starts nodes on demand; None: nothing does.
    """

    alive: frozenset[str] = frozenset()
    leaving: Mapping[str, float | None] = field(default_factory=dict)
    staying: tuple[NodeShape, ...] = ()
    autoscaler: Autoscaler | None = None


class Head:
    """The cluster's head as one coordinator sees it. Not for several threads at once.

    Args:
        ask: the question; it may block for ever.
        silence_s: how long it may stay unanswered.
        monotonic: the clock.
    """

    def __init__(
        self,
        ask: Callable[[], Nodes] | None = None,
        *,
        silence_s: float = SILENCE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask or ask_for_nodes
        self._silence_s = silence_s
        self._monotonic = monotonic
        self._question: Future[Nodes] | None = None
        self._killing: Future[None] | None = None
        self._next = monotonic()
        self._silent_since: float | None = None
        self._leaving: dict[str, float | None] = {}
        self._newest: Nodes | None = None

    @property
    def newest(self) -> Nodes | None:
        """What the head said last; None: nothing yet."""
        return self._newest

    @property
    def leaving(self) -> Mapping[str, float | None]:
        """The nodes that are, or were, to be taken away, and when (UTC epoch seconds). One that is gone stays in."""
        return self._leaving

    def listen(self) -> None:
        """Take in what the head has answered, and ask again when it is time; waits for nothing.

        Raises:
            ClusterUnavailable: the head has been silent for too long.
        """
        if self._question is not None and self._question.done():
            self._take_in(self._question)
        now = self._monotonic()
        if self._question is None and now >= self._next:
            self._question = in_background(self._ask)
            self._silent_since = now if self._silent_since is None else self._silent_since
        if self._silent_since is not None and now - self._silent_since > self._silence_s:
            raise self._is_gone()

    def is_alive(self, node: str) -> bool:
        """Whether a node lives now; false too when the head does not answer within seconds."""
        question = in_background(self._ask)
        try:
            self._take_in(question, timeout_s=_ANSWER_S)
        except TimeoutError:
            return False
        return self._newest is not None and node in self._newest.alive

    def answer(self, call: Callable[[], T]) -> T:
        """What `call` gives, which waits for the head.

        Raises:
            ClusterUnavailable: the head has been silent for too long.
        """
        try:
            return in_background(call).result(self._silence_s)
        except TimeoutError:
            raise self._is_gone() from None

    def kill(self, actor: Any) -> None:
        """End an actor at once, wherever it is in its life. A head that hears of none of it is waited for only once."""
        deaf = self._killing is not None and not self._killing.done()
        self._killing = in_background(lambda: ray.kill(actor))
        with suppress(TimeoutError):
            self._killing.result(0.0 if deaf else _KILL_S)

    def _is_gone(self) -> ClusterUnavailable:
        return ClusterUnavailable(
            f"the cluster's head has been silent for {self._silence_s:g} s",
            hint="start again on a cluster whose head is up: the run goes on from what is stored",
        )

    def _take_in(self, question: Future[Nodes], timeout_s: float = 0.0) -> None:
        """Remember an answer. Raises TimeoutError; a question that failed counts as unanswered."""
        failed = question.exception(timeout_s) is not None
        if question is self._question:
            self._question, self._next = None, self._monotonic() + ASK_EVERY_S
        if not failed:
            nodes = question.result()
            self._silent_since, self._newest = None, nodes
            self._leaving |= nodes.leaving


def ask_for_nodes() -> Nodes:
    """Ask the head of the cluster to which this process is connected; may block for ever."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeID"]))
    leaving = leaving_nodes()
    staying = tuple(_shape_of(node) for node in alive if node["NodeID"] not in leaving)
    return Nodes(frozenset(node["NodeID"] for node in alive), leaving, staying, ask_for_autoscaler())


def _shape_of(node: Mapping[str, Any]) -> NodeShape:
    resources = node["Resources"]
    return NodeShape(
        resources.get("CPU", 0.0),
        resources.get("GPU", 0.0),
        node["NodeID"],
        node["Labels"],
        is_head="node:__internal_head__" in resources,
    )


def leaving_nodes() -> dict[str, float | None]:
    """The nodes that are being drained, with the UTC epoch second of their end, or None; may block for ever.

    A private part of Ray (2.52 to 2.60), for the public ones do not tell of drains. Where it is not there, as in Ray's
    client (`ray://`), nobody is warned: what is lost with a node is then what its last checkpoint does not hold.
    """
    try:
        deadlines_ms = ray._private.state.state.get_draining_nodes()
    except (AttributeError, ray.exceptions.RaySystemError):
        return {}
    return {node: deadline_ms / 1000 if deadline_ms else None for node, deadline_ms in deadlines_ms.items()}
