"""The two scenes of protocol chaos: fates that are certain to strike, an order of them and of all else by seed."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import TryAgain
from tests.support import chaos_coordinator, chaos_writer
from tests.support.chaos_actor import Actor, Program, Site
from tests.support.chaos_checker import faults_of_member, faults_of_run, read_journals
from tests.support.chaos_conductor import Conductor, Fate

_LOST_ANSWERS = 0.04
_REFUSED = 2
"""The exit code of whoever comes to a damaged log: the end of each negative control."""

_FIRST_MEMBER_FATES = [Fate("freeze", r"^create .* checkpoint$"), Fate("kill", r"^created .* checkpoint$")]
"""First, so that it is certain: a writer sleeps between its last look and its append, and its successor publishes."""

_MEMBER_FATES = [
    *(Fate("freeze", r"^create .* checkpoint$"), Fate("freeze", 9), Fate("rival", 7)),
    *(Fate("kill", r"^create .* checkpoint$"), Fate("kill", r"^delete "), Fate("kill", r"^put "), Fate("kill", 5)),
    *(Fate("kill_in_flight", r"^create .* claim$"), Fate("kill_in_flight", r"^create .* checkpoint$")),
]
_LAST_MEMBER_FATES = [Fate("freeze", r"^create .* final$"), Fate("kill", r"^created .* final$")]
_EARLY_RUN_FATES = [
    *(Fate("kill", 12), Fate("freeze", r"^create .* final$"), Fate("kill", r"^created .*/members/.* final$")),
    *(Fate("freeze", r"^put .*/blobs/"), Fate("kill_in_flight", r"^create .*/log/")),
]
_LATE_RUN_FATES = [
    *(Fate("freeze", r"^create .* selection$"), Fate("kill", r"^created .* selection$")),
    *(
        Fate("freeze", r"^create .* done$"),
        Fate("kill", r"^created .* done$"),
        Fate("kill", r"^create .*/result\.json$"),
    ),
]
_RIVALS = [Fate("rival", 15), Fate("rival", r"^create .* selection$"), Fate("rival", r"^create .* done$")]


@dataclass
class Scene:
    """What happened, and what is wrong; as text, all that a message should say."""

    budget: Counter[str]
    violations: list[str]
    stale: int
    records: int
    story: str

    def __str__(self) -> str:
        return "\n".join([f"{self.stale} stale publications", *self.violations, self.story])


def s3_site(url: str, endpoint_url: str) -> Site:
    """A bucket, with the credentials that this process has in its environment."""
    environ = {name: value for name, value in os.environ.items() if name.startswith("AWS_") or name == "NO_PROXY"}
    return Site(url, endpoint_url, environ)


def chaos_on_a_member(site: Site, folder: Path, seed: int) -> Scene:
    """Writers of one member's log, killed, frozen and doubled until one of them has published it.

    Args:
        site: where they write; nobody wrote there before.
        folder: for the journals.
        seed: of everything that is drawn.
    """
    drawn = random.Random(seed).sample(_MEMBER_FATES, len(_MEMBER_FATES))
    fates = [*_FIRST_MEMBER_FATES, *drawn, *_LAST_MEMBER_FATES]
    conductor = _conduct(site, folder, seed, chaos_writer.write_member, fates, faults=_LOST_ANSWERS)
    acknowledged = read_journals(actor.journal for actor in conductor.actors)
    found = faults_of_member(site.open(), chaos_writer.LAYOUT, acknowledged, orphans=conductor.budget["excused"])
    return _scene(conductor, found, len(acknowledged))


def chaos_on_a_run(site: Site, folder: Path, seed: int) -> Scene:
    """Coordinators of one run, killed and frozen at every step of it until it has a result.

    Even seeds add rivals, which are as likely to finish the run before all the others have met their fates.

    Args:
        site, folder, seed: as for `chaos_on_a_member`.
    """
    chance = random.Random(seed)
    early = _EARLY_RUN_FATES + (_RIVALS if seed % 2 == 0 else [])
    fates = chance.sample(early, len(early)) + _LATE_RUN_FATES
    conductor = _conduct(site, folder, seed, chaos_coordinator.coordinate, fates)
    acknowledged = read_journals(actor.journal for actor in conductor.actors)
    told = [news for actor in conductor.actors for news in actor.told]
    results = [news.removeprefix("result ") for news in told if news.startswith("result ")]
    layout, members = chaos_coordinator.LAYOUT, chaos_coordinator.MEMBERS
    found = faults_of_run(site.open(), layout, members, acknowledged, results)
    return _scene(conductor, found, len(acknowledged))


def _conduct(
    site: Site, folder: Path, seed: int, program: Program, fates: Sequence[Fate], *, faults: float = 0.0
) -> Conductor:
    conductor = Conductor(seed, lambda name: Actor(name, program, site, folder), faults=faults)
    conductor.conduct(fates, until=["finished", _REFUSED] if site.overwriting else ["finished"])
    return conductor


def _scene(conductor: Conductor, found: Iterable[str], records: int) -> Scene:
    undocumented = [
        f"{actor.name} ended with {actor.outcome}"
        for actor in conductor.actors
        if actor.outcome not in (None, "finished", TryAgain.exit_code)
    ]
    return Scene(conductor.budget, [*found, *undocumented], len(conductor.stale), records, conductor.story())
