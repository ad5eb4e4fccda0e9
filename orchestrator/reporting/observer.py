"""Who measures a run while the controller works on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from orchestrator.planning.commands import Command
from orchestrator.planning.events import Event
from orchestrator.planning.schedule_state import MemberState


class Observer(Protocol):
    """Is told what goes on. It decides nothing, raises nothing and returns at once."""

    def happened(self, event: Event) -> None:
        """An event, before the schedule takes it in; of an epoch's figures those that progress shows."""

    def ordered(self, command: Command) -> None:
        """A command, when it is carried out."""

    def stands(self, members: Mapping[int, MemberState]) -> None:
        """Where all members stand now, by index; after each turn of the loop."""

    def ended(self, status: str) -> None:
        """The run has ended here: as its result says, or `failed` or `stopped`."""


class Unobserved:
    """Nobody measures."""

    def happened(self, event: Event) -> None:
        """Nothing."""

    def ordered(self, command: Command) -> None:
        """Nothing."""

    def stands(self, members: Mapping[int, MemberState]) -> None:
        """Nothing."""

    def ended(self, status: str) -> None:
        """Nothing."""
