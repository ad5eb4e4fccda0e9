"""result.json: canonical bytes, exact round trip, and loud refusal of what is not one."""

from __future__ import annotations

import json
import math
import pickle

import pytest
from pydantic import ValidationError
from result_examples import member, result

from orchestrator.errors import DamagedStore, OrchestratorError
from orchestrator.reporting.result import from_json, to_json
from orchestrator.reporting.scores import Figure


def test_a_result_comes_back_equal() -> None:
    assert from_json(to_json(result())) == result()


def test_a_result_without_optional_parts_comes_back_equal() -> None:
    bare = result(validation=None, test=None, weights=None, gate=None, members=[], missing=[], notes=[])
    assert from_json(to_json(bare)) == bare


def test_equal_results_give_equal_bytes_whatever_the_order_of_keys() -> None:
    one = result(versions={"keras": "3", "ray": "2"}, timing={"a_s": 1.0, "b_s": 2.0})
    other = result(versions={"ray": "2", "keras": "3"}, timing={"b_s": 2.0, "a_s": 1.0})
    assert to_json(one) == to_json(other) == to_json(from_json(to_json(one)))


def test_the_json_is_one_line_with_sorted_keys_and_the_name_schema() -> None:
    body = to_json(result())
    assert body.count(b"\n") == 1
    assert body.endswith(b"\n")
    decoded = json.loads(body)
    assert decoded["schema"] == 1
    assert list(decoded) == sorted(decoded)
    assert decoded["validation"]["best_member"]["member"] == 1
    assert decoded["members"][0]["stopped_epoch"] is None


def test_the_ensembles_accuracy_is_where_a_notebook_looks_for_it() -> None:
    validation = result().validation
    assert validation is not None
    assert validation.ensemble.accuracy == 0.9611


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        Figure(accuracy=value, nll=0.1, n=1, scored_on="test")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_with_a_hyperparameter_that_is_not_finite_is_not_written(value: float) -> None:
    with pytest.raises((OrchestratorError, ValidationError)):
        to_json(result(members=[member(0, hyperparameters={"clip": [value]})]))


def test_results_are_frozen() -> None:
    with pytest.raises(ValidationError):
        result().status = "succeeded"


def test_results_travel_between_processes() -> None:
    assert pickle.loads(pickle.dumps(result())) == result()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", to_json(result())[:-30]])
def test_what_is_no_result_is_refused(body: bytes) -> None:
    with pytest.raises(DamagedStore, match=r"result\.json"):
        from_json(body)


def test_a_newer_schema_or_an_unknown_key_is_refused_with_the_place() -> None:
    decoded = json.loads(to_json(result()))
    with pytest.raises(DamagedStore, match=r"result\.json: schema"):
        from_json(json.dumps({**decoded, "schema": 2}).encode())
    with pytest.raises(DamagedStore, match=r"result\.json: extra"):
        from_json(json.dumps({**decoded, "extra": 1}).encode())
