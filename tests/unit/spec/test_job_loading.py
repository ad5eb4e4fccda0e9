"""From a file to a job: every kind of bad input ends in one InvalidJob in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidJob
from orchestrator.spec import Job, load_job, parse_job

HEAD = "name: digits\nmodel: jobs.digits:build_model\ndata: jobs.digits:load_data\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_four_lines_are_a_job(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, HEAD + "members: 3\n"))

    assert isinstance(job, Job)
    assert job.members.count == 3


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + HEAD.encode())

    assert load_job(path).name == "digits"


BAD = [
    # unknown keys, with the nearest right one
    ("epochs: 5", 4, ["epochs is not a key", "did you mean train.epochs?"]),
    ("train: {epocs: 5}", 4, ["train.epocs is not a key", "did you mean train.epochs?"]),
    ("train:\n  early_stopping: {patiens: 5}", 5, ["did you mean train.early_stopping.patience?"]),
    ("train: {checkpoint: {filepath: x}}", 4, ["train.checkpoint.filepath is not a key"]),
    ("members: {zzz: 5}", 4, ["the keys here are count, folds, dropout, vary, overrides"]),
    ("members: {dropout: {min: 0.1, max: 0.2, lgo: true}}", 4, ["did you mean members.dropout.log?"]),
    ("<<: {seed: 1}", 4, ["<< is not a key"]),
    ("1: x", 4, ["1 is not a key"]),
    # wrong types: nothing is converted
    ("seed: '3'", 4, ["seed must be a whole number, not the text '3'"]),
    ("seed: 3.0", 4, ["seed must be a whole number, not 3.0"]),
    ("seed: true", 4, ["seed must be a whole number, not true"]),
    ("seed: -1", 4, ["seed must be at least 0, not -1"]),
    ("seed:", 4, ["seed must be a whole number, not nothing"]),
    ("train: {batch_size: '32'}", 4, ["train.batch_size must be a whole number, not the text '32'"]),
    ("train: {epochs: 0}", 4, ["train.epochs must be at least 1"]),
    ("train: 5", 4, ["train must be a mapping of keys, not 5"]),
    ("train: {deterministic: on}", 4, ["train.deterministic must be true or false, not the text 'on'"]),
    ("train: {early_stopping: true}", 4, ["train.early_stopping must be a mapping of keys, not true"]),
    ("train: {early_stopping: {mode: up}}", 4, ["must be 'auto', 'min' or 'max'"]),
    ("train: {early_stopping: {monitor: ''}}", 4, ["train.early_stopping.monitor must not be empty"]),
    ("train: {early_stopping: {verbose: 2}}", 4, ["must be at most 1"]),
    ("train: {early_stopping: {min_delta: .nan}}", 4, ["min_delta must be a finite number"]),
    ("train: {steps_per_execution: fast}", 4, ["must be 'auto' or a whole number"]),
    ("train: {steps_per_execution: [1]}", 4, ["must be text or a number, not a list"]),
    ("train: {jit_compile: 1}", 4, ["must be text or true or false, not 1"]),
    ("train: {optimizer: 3}", 4, ["train.optimizer must be text or a mapping, not 3"]),
    ("train: {optimizer: {config: {}}}", 4, ["train.optimizer.class_name is missing"]),
    ("train: {metrics: accuracy}", 4, ["train.metrics must be a list"]),
    ("train: {metrics: [3]}", 4, ["train.metrics.0 must be text or a mapping"]),
    ("train: {checkpoint: {save_freq: 0}}", 4, ["train.checkpoint.save_freq must be at least 1"]),
    # members
    ("members: 0", 4, ["members.count must be at least 1, not 0"]),
    ("members: 10001", 4, ["members.count must be at most 10000"]),
    ("members: five", 4, ["members.count must be a whole number"]),
    ("members: {dropout: 1}", 4, ["members.dropout must be below 1, not 1"]),
    ("members: {dropout: [0.1, -0.1]}", 4, ["members.dropout.1 must be at least 0"]),
    ("members: {dropout: []}", 4, ["members.dropout must not be empty"]),
    ("members: {dropout: high}", 4, ["members.dropout must be a number, a list or a mapping, not the text 'high'"]),
    ("members: {dropout: {min: 0.5}}", 4, ["members.dropout.max is missing"]),
    ("members: {dropout: {min: 0.5, max: 0.1}}", 4, ["members.dropout.max must be above min (0.5)"]),
    ("members: {dropout: {min: 0.1, max: 1}}", 4, ["members.dropout.max a dropout rate must be below 1"]),
    ("members: {vary: {units: []}}", 4, ["members.vary.units must not be empty"]),
    ("members: {vary: {units: 5}}", 4, ["members.vary.units must be a list or a mapping, not 5"]),
    ("members: {vary: {lr: {min: 0, max: 1, log: true}}}", 4, ["members.vary.lr.min must be above 0 on a log scale"]),
    ("members: {dropout: 0.1, vary: {dropout: [0.2]}}", 4, ["members.vary.dropout stands beside"]),
    ("members: {count: 2, overrides: {2: {dropout: 0.1}}}", 4, ["there is no member 2: count is 2"]),
    ("members: {overrides: {'1': {}}}", 4, ["members.overrides.1 is not a good key here", "a whole number"]),
    ("members: {overrides: {-1: {}}}", 4, ["a key must be at least 0"]),
    ("members: {overrides: {1: {trian: {}}}}", 4, ["members.overrides.1.trian is not a key"]),
    ("members: {overrides: {1: {seed: 4294967296}}}", 4, ["must be at most 4294967295"]),
    ("members: {overrides: {1: {dropout: .1, kwargs: {dropout: .2}}}}", 4, ["say it once"]),
    # ensemble
    (
        "members: 2\nensemble: {weights: [1, 2, 3]}",
        5,
        ["ensemble.weights must have one number for each of the 2 members"],
    ),
    ("ensemble: {weights: [0, 0, 0, 0, 0]}", 4, ["must add up to a finite number above 0"]),
    ("ensemble: {weights: [1, 1, 1, 1, -1]}", 4, ["ensemble.weights.4 must be at least 0"]),
    ("ensemble: {weights: [1.0e308, 1.0e308, 1, 1, 1]}", 4, ["must add up to a finite number"]),
    ("ensemble: {weights: loss}", 4, ["must be 'accuracy', 'nll' or 'greedy' or a list"]),
    ("ensemble: {quorum: 6}", 4, ["ensemble.quorum must be at most the number of members (5)"]),
    (
        "ensemble: {quorum: 4, stop_when: {patience: 2}}",
        4,
        ["ensemble.quorum must be at most patience + 1 (3), for stop_when may leave no more, not 4"],
    ),
    (
        "ensemble: {weights: [0, 0, 0, 1, 1], stop_when: {patience: 2}}",
        4,
        ["ensemble.weights are 0 for the first 3 members, and stop_when may leave no others"],
    ),
    ("ensemble: {stop_when: {patience: 0}}", 4, ["ensemble.stop_when.patience must be at least 1, not 0"]),
    ("ensemble: {stop_when: {min_delta: -1}}", 4, ["ensemble.stop_when.min_delta must be at least 0"]),
    ("ensemble: {stop_when: {metric: loss}}", 4, ["ensemble.stop_when.metric must be 'accuracy', 'nll'"]),
    ("ensemble: {stop_when: true}", 4, ["ensemble.stop_when must be a mapping of keys, not true"]),
    ("ensemble: {quorum: 2, weights: [1, 1, 0, 0, 0]}", 4, ["2 is too few: 3 weights are 0"]),
    ("ensemble: {gate: {metric: accuracy}}", 4, ["ensemble.gate needs `min`, `max` or both"]),
    ("ensemble: {gate: {min: 0.5}}", 4, ["ensemble.gate.metric is missing"]),
    ("ensemble: {gate: {metric: accuracy, min: 90}}", 4, ["never above 1"]),
    ("ensemble: {gate: {metric: nll, max: -1}}", 4, ["nll is never below 0"]),
    ("ensemble: {gate: {metric: nll, min: 2, max: 1}}", 4, ["must not be below min (2)"]),
    ("ensemble: {gate: {metric: f1, min: 0.5}}", 4, ["must be 'accuracy', 'nll', 'brier'"]),
    ("ensemble: {gate: {metric: rmse, max: -1}}", 4, ["rmse is never below 0, so nothing passes -1"]),
    ("ensemble: {gate: {metric: auc, of: members_mean, min: 0.5}}", 4, ["is told of ensembles and of the best member"]),
    ("ensemble: {combine: stacking, weights: nll}", 4, ["stand beside `combine: stacking`", "say `weights: null`"]),
    ("ensemble: {combine: median}", 4, ["must be 'mean', 'logits', 'weighted' or 'stacking'"]),
    ("report: {top: 101}", 4, ["must be at most 100"]),
    # resources, faults
    ("resources: {num_gpus: 1.5}", 4, ["must be a fraction below 1 or a whole number, not 1.5"]),
    ("resources: {num_gpus: -1}", 4, ["must be at least 0"]),
    ("resources: {num_cpus: 0}", 4, ["must be at least 1"]),
    ("faults: {backoff_min_s: 9, backoff_max_s: 1}", 4, ["faults.backoff_max_s must not be below backoff_min_s (9)"]),
    ("faults: {stall_s: 0}", 4, ["faults.stall_s must be above 0"]),
    # storage and Ray
    ("storage: {url: 'memory://x'}", 4, ["storage.url memory:// is lost with its process"]),
    ("storage: {url: 'gs://bucket/x'}", 4, ["the scheme gs:// is unknown"]),
    ("storage: {url: 's3:bucket'}", 4, ["must be a folder or s3://bucket/prefix"]),
    ("storage: {url: 's3://'}", 4, ["must name a bucket"]),
    ("storage: {url: 's3://bucket/../other'}", 4, ["without `..`"]),
    ("storage: {url: 's3://bucket/x?region=y'}", 4, ["no `?` or `#`"]),
    ("storage: {url: 's3://169.254.169.254/x'}", 4, ["plain bucket name"]),
    ("storage: {url: 'file://host/x'}", 4, ["absolute path"]),
    ("storage: {url: ''}", 4, ["must be a folder"]),
    ("storage: {endpoint_url: 'ftp://host'}", 4, ["must start with http:// or https://"]),
    ("storage: {endpoint_url: 'http://host:99999'}", 4, ["https://host:port"]),
    ("storage: {endpoint_url: 'http://a\\@169.254.169.254'}", 4, ["must not contain spaces, backslashes"]),
    ("storage: {region: 'eu central'}", 4, ["storage.region must match"]),
    ("ray: {address: 'http://host:8265'}", 4, ["not http://", "orchestrator submit"]),
    ("ray: {address: 'ray://u:p@host:10001'}", 4, ["must not contain a user or password"]),
    ("ray: {address: ''}", 4, ["must be host:port"]),
]


@pytest.mark.parametrize(("text", "line", "fragments"), BAD, ids=[text for text, _, _ in BAD])
def test_bad_input_is_refused_with_line_path_and_remedy(
    tmp_path: Path, text: str, line: int, fragments: list[str]
) -> None:
    path = write(tmp_path, HEAD + text + "\n")

    with pytest.raises(InvalidJob) as caught:
        load_job(path)

    assert caught.value.where == f"{path}:{line}"
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("name", ["Digits", "../x", "a/b", "", "-a", "a" * 64, "a b", "é", "a\n"])
def test_names_that_would_not_be_safe_as_keys_are_refused(name: str) -> None:
    with pytest.raises(InvalidJob, match="lower-case"):
        parse_job({"name": name, "model": "m:f", "data": "m:g"})


@pytest.mark.parametrize(
    "reference", ["digits", "m:", ":f", "m:f:g", "m.:f", ".m:f", "m:f()", "a b:c", "m:f.g", "1m:f", ""]
)
def test_malformed_references_are_refused(reference: str) -> None:
    with pytest.raises(InvalidJob, match=r"model\.builder must be a reference such as"):
        parse_job({"name": "a", "model": reference, "data": "m:g"})


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.169.254.",
        "169.254.43518",
        "0xa9fea9fe",
        "2852039166",
        "0251.0376.0251.0376",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "100.100.100.200",
    ],
)
def test_endpoints_that_lead_to_metadata_are_refused_in_any_notation(host: str) -> None:
    with pytest.raises(InvalidJob, match="metadata"):
        parse_job(minimal(storage={"url": "s3://b/x", "endpoint_url": f"http://{host}:80/x"}))


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:8333", "https://s3.example.org", "http://seaweed:8333", "http://[::1]:9000", "http://10.0.0.5"],
)
def test_ordinary_endpoints_pass(endpoint: str) -> None:
    assert parse_job(minimal(storage={"endpoint_url": endpoint})).storage.endpoint_url == endpoint


@pytest.mark.parametrize(
    "url", ["runs", "/data/runs", "../runs", "file:///data/runs", "s3://bucket", "s3://my.bucket/a/b"]
)
def test_ordinary_storage_passes(url: str) -> None:
    assert parse_job(minimal(storage={"url": url})).storage.url == url


@pytest.mark.parametrize("url", ["s3://user:hunter2@bucket/x", "http://user:hunter2@host/x"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    key = "url" if url.startswith("s3") else "endpoint_url"

    with pytest.raises(InvalidJob, match="user or password") as caught:
        parse_job(minimal(storage={key: url}))

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "part",
    [
        {"storage": {"aws_secret_access_key": "hunter2"}},
        {"storage": {"secret": "hunter2"}},
        {"password": "hunter2"},
        {"model": {"builder": "m:f", "kwargs": {"apiKey": "hunter2"}}},
        {"model": {"builder": "m:f", "kwargs": {"a": [{"session-token": "hunter2"}]}}},
        {"model": {"builder": "m:f", "kwargs": {"a": "AKIAIOSFODNN7EXAMPLE"}}},
        {"members": {"vary": {"AKIAIOSFODNN7EXAMPLE": [1]}}},
        {"ray": {"address": "AKIAIOSFODNN7EXAMPLE"}, "seed": "hunter2"},
    ],
)
def test_secrets_are_refused_and_not_repeated(part: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob, match="looks like") as caught:
        parse_job(minimal(**part))

    assert "hunter2" not in str(caught.value)
    assert "AKIAIOSFODNN7EXAMPLE" not in str(caught.value)
    assert "environment, profile or role" in str(caught.value)


def test_words_of_text_models_are_no_secrets() -> None:
    kwargs = {"num_tokens": 100, "pad_token": 0, "oov_token": "[UNK]", "key_dim": 8, "tokenizer": "words"}

    assert parse_job(minimal(model={"builder": "m:f", "kwargs": kwargs})).model.kwargs == kwargs


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        (float("nan"), "model.kwargs.a must be a finite number"),
        ([1, {"b": float("inf")}], "model.kwargs.a.1.b must be a finite number"),
        ({1: 2}, "model.kwargs.a has the key 1, but keys must be text"),
        (2**64, "model.kwargs.a must fit 64 bits"),
        (object(), "not object"),
        (b"x", "not bytes"),
    ],
)
def test_arguments_that_json_cannot_say_are_refused(value: object, fragment: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        parse_job(minimal(model={"builder": "m:f", "kwargs": {"a": value}}))

    assert fragment in str(caught.value)


def test_a_dictionary_that_contains_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = loop

    with pytest.raises(InvalidJob, match="nested deeper"):
        parse_job(minimal(model={"builder": "m:f", "kwargs": loop}))


def test_all_problems_are_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "train:\n  epocs: 3\n  batch_size: x\nmodel: digits\nname: digits\nensemble:\n  quorum: 0\n"
    path = write(tmp_path, text)

    with pytest.raises(InvalidJob) as caught:
        load_job(path)

    lines = caught.value.what.splitlines()
    assert lines[0] == "5 problems:"
    assert [line.split(" ")[2] for line in lines[1:]] == [f"{path}:{number}:" for number in (1, 2, 3, 4, 7)]
    assert "data is missing" in lines[1]
    assert "(did you mean train.epochs?)" in lines[2]


def test_thousands_of_problems_are_cut() -> None:
    with pytest.raises(InvalidJob) as caught:
        parse_job(minimal(members={"overrides": {index: {} for index in range(5, 2000)}}))

    assert caught.value.what.endswith("… and 1945 more")


@pytest.mark.parametrize(
    ("text", "fragment"), [("", "empty"), ("# only this\n", "empty"), ("- a\n", "mapping"), ("x", "mapping")]
)
def test_a_document_that_is_no_mapping_is_refused(tmp_path: Path, text: str, fragment: str) -> None:
    with pytest.raises(InvalidJob, match=fragment):
        load_job(write(tmp_path, text))


def test_a_missing_file_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    write(tmp_path, HEAD)

    with pytest.raises(InvalidJob) as caught:
        load_job(tmp_path / "jobs.yaml")

    assert "there is no such file" in caught.value.what
    assert caught.value.hint == f"did you mean {tmp_path / 'job.yaml'}?"


def test_a_missing_folder_says_what_paths_are_relative_to(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="relative to"):
        load_job(tmp_path / "nowhere" / "job.yaml")


def test_folders_binary_files_and_large_files_are_refused(tmp_path: Path) -> None:
    binary, large = tmp_path / "binary.yaml", tmp_path / "large.yaml"
    binary.write_bytes(b"name: x\nmodel: \xff\xfe")
    large.write_bytes(b"#" * (1 << 20) + b"\n")

    with pytest.raises(InvalidJob, match="is a folder"):
        load_job(tmp_path)
    with pytest.raises(InvalidJob, match=r"binary\.yaml:2: the file is not UTF-8"):
        load_job(binary)
    with pytest.raises(InvalidJob, match="larger than 1024 KiB"):
        load_job(large)
    with pytest.raises(InvalidJob):
        load_job("a\0b")


def test_a_dictionary_is_named_in_messages_as_the_caller_says() -> None:
    with pytest.raises(InvalidJob) as plain:
        parse_job(minimal(seed="x"))
    with pytest.raises(InvalidJob) as named:
        parse_job(minimal(seed="x"), filename="notebook", lines={("seed",): 7})

    assert plain.value.where == "<dict>"
    assert named.value.where == "notebook:7"


def minimal(**changes: Any) -> dict[str, Any]:
    return {"name": "digits", "model": "m:f", "data": "m:g", **changes}


NOISE = st.text(alphabet=st.sampled_from("abcemnostx0159.:-_[]{}&*!|>'\"#%@,?~ \n\t\\\ud800\x00é/"), max_size=60)
# fmt: off
KEYS = st.sampled_from(
    [
        "name", "seed", "model", "data", "members", "train", "ensemble", "storage", "ray", "count",
        "dropout", "vary", "overrides", "builder", "kwargs", "epochs", "weights", "early_stopping",
        "checkpoint", "optimizer", "metrics", "gate", "min", "max", "log", "url", "class_name",
        "config", "0", "1", "-1",
    ]
)
SCALARS = st.sampled_from(
    [
        "1", "0.5", "-3", "1e-4", "true", "null", "x", "m:f", "accuracy", "s3://b", "[]", "{}",
        ".nan", ".inf", "'a'", "1e400", "0xff", "*a", "&a b",
    ]
)
# fmt: on
FLOWS = st.recursive(
    SCALARS,
    lambda below: st.one_of(
        st.lists(below, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(KEYS, below, max_size=3).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        ),
    ),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(KEYS, FLOWS, max_size=5).map(
    lambda items: "".join(f"{key}: {value}\n" for key, value in items.items())
)


@given(text=st.one_of(st.text(max_size=80), NOISE, DOCUMENTS), with_head=st.booleans())
@example(text="<<: 1", with_head=True)
@example(text='? "', with_head=False)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_ends_in_a_job_or_an_invalid_job(tmp_path: Path, text: str, with_head: bool) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(((HEAD if with_head else "") + text).encode("utf-8", "surrogatepass"))

    said = outcome(path)

    assert said == "a job" or str(path) in said


@given(override=st.one_of(st.text(max_size=40), st.builds("{}.{}={}".format, KEYS, KEYS, FLOWS)))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_override_ends_in_a_job_or_an_invalid_job(tmp_path: Path, override: str) -> None:
    path = write(tmp_path, HEAD)

    said = outcome(path, override)

    assert said == "a job" or "override" in said or str(path) in said


def outcome(path: Path, *overrides: str) -> str:
    """What the user sees: "a job", or the message of the InvalidJob; any other exception fails the test."""
    try:
        assert isinstance(load_job(path, overrides), Job)
    except InvalidJob as error:
        return str(error)
    return "a job"
