"""What a start of a run would skip, as the plan tells it."""

from __future__ import annotations

from run_examples import BEGAN, LAYOUT, beat, checkpoint, claim_member, create_run, finish

from orchestrator.reporting.remainder import Remainder, remainder_of
from orchestrator.reporting.status import status_of
from orchestrator.testing import MemoryStore

NOW = BEGAN + 3600


def remainder(store: MemoryStore, members: int = 5, now: float = NOW) -> Remainder:
    return remainder_of(status_of(store, LAYOUT, now=now), range(members))


def test_trained_members_are_skipped_and_others_go_on_from_their_newest_checkpoint() -> None:
    store = MemoryStore()
    create_run(store, members=5)
    claim_member(store, 0).append("final", epochs=6, best_epoch=5)
    log = claim_member(store, 1)
    checkpoint(log, 3, BEGAN, 3)
    checkpoint(log, 4, BEGAN, 3)
    claim_member(store, 2).append("failed", status="diverged", message="NaN")
    claim_member(store, 3)
    found = remainder(store)

    assert (found.state, found.starts, found.exit_code) == ("begun", 1, None)
    assert (found.done, found.going_on, found.diverged, found.left) == ((0,), {1: 4}, (2,), (3, 4))
    assert found.text == ("trained: 0; going on after epoch 4: 1; diverged, and not trained again: 2; left: 3–4")
    assert found.to_json()["going_on"] == {"1": 4}


def test_a_run_at_work_is_attached_to() -> None:
    store = MemoryStore()
    create_run(store)
    beat(store, 1, NOW - 1)

    assert remainder(store).state == "live"


def test_a_finished_run_returns_what_is_recorded() -> None:
    store = MemoryStore()
    finish(store, create_run(store), status="gate_failed", exit_code=3)
    found = remainder(store, members=3)

    assert (found.state, found.exit_code, found.done, found.left) == ("finished", 3, (0, 1), ())
    assert found.text == "everything: a start returns the recorded result, gate_failed"


def test_an_ensemble_that_is_fixed_is_finished() -> None:
    store = MemoryStore()
    create_run(store).append("selection", members=[{"index": 0, "status": "succeeded"}])

    assert remainder(store).state == "selected"


def test_a_run_that_has_only_begun_has_everything_left() -> None:
    store = MemoryStore()
    create_run(store, members=5)

    assert remainder(store).left == (0, 1, 2, 3, 4)
    assert remainder(store).text == "nothing: no member has begun"
