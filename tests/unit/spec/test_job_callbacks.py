"""`train.callbacks` as far as it can be checked without Keras: names, own classes, and what resumes exactly."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InvalidJob
from orchestrator.spec import Job, check_job, code_digest, parse_job
from orchestrator.spec.callbacks import FUNCTIONS, KERAS_CALLBACKS, wrong_callback
from orchestrator.spec.check import exactness

MODULE = """
import keras
from keras.callbacks import Callback, EarlyStopping
from shared import Remembers

def build(): ...
def data(): ...

class Plain(keras.callbacks.Callback):
    def __init__(self, folder, rate, depth=2):
        super().__init__()

class Forgets(Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.seen = epoch

class Keeps(Remembers):
    def on_epoch_end(self, epoch, logs=None):
        self.seen = epoch

class Half(Callback):
    def get_state(self):
        return {}

class Inherits(EarlyStopping): ...
class Open(Callback):
    def __init__(self, **kwargs): ...

@keras.saving.register_keras_serializable()
class Decorated(Callback):
    def __init__(self, rate): ...

if keras.__version__ > "4":
    class Either(Callback):
        def get_state(self): ...
        def set_state(self, state): ...
else:
    class Either(Callback):
        def __init__(self, rate): ...
"""
SHARED = """
import keras

class Remembers(keras.callbacks.Callback):
    def get_state(self): return {}
    def set_state(self, state): ...
"""


def job(*callbacks: Any, **parts: Any) -> Job:
    train = {**parts.pop("train", {}), "callbacks": list(callbacks)}
    return parse_job({"name": "a", "model": "m:build", "data": "m:data", "train": train, **parts})


def project(root: Path) -> str:
    (root / "m.py").write_text(MODULE, encoding="utf-8")
    (root / "shared.py").write_text(SHARED, encoding="utf-8")
    return str(root)


def reasons(root: Path, *callbacks: Any, **parts: Any) -> tuple[str, ...]:
    made = job(*callbacks, **parts)
    return exactness(made, check_job(made, project(root)))


def configured(name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": name, "config": config}


def test_every_callback_of_keras_is_allowed_or_refused_with_a_reason() -> None:
    """Read from Keras' source, for a new release may bring another."""
    found = importlib.util.find_spec("keras")
    assert found is not None
    assert found.submodule_search_locations is not None
    sources = Path(found.submodule_search_locations[0], "src", "callbacks").glob("*.py")
    exported = {name for path in sources for name in re.findall(r'"keras\.callbacks\.(\w+)"', path.read_text("utf-8"))}
    assert len(exported) > 10
    assert set(KERAS_CALLBACKS) <= exported
    for name in exported - set(KERAS_CALLBACKS):
        assert (wrong_callback(name) or "").startswith(f"{name} "), f"{name} is neither allowed nor refused by name"


@pytest.mark.parametrize("name", [*sorted({*KERAS_CALLBACKS} - {*FUNCTIONS}), "m:Forgets", "jobs.own:Callback"])
def test_names_of_keras_and_references_are_taken(name: str) -> None:
    assert len(job(name, configured(name)).train.callbacks) == 2


def test_functions_of_keras_callbacks_are_named_as_references() -> None:
    """Their arguments are those that Keras' own classes have."""
    for name, functions in FUNCTIONS.items():
        assert len(job(configured(name, **dict.fromkeys(functions, "m:schedule"))).train.callbacks) == 1
        found = set(_arguments_of(name))
        assert set(functions) == found - {"verbose"}


def _arguments_of(name: str) -> list[str]:
    """Of a callback's constructor, read from Keras' source."""
    keras = importlib.util.find_spec("keras")
    assert keras is not None
    assert keras.submodule_search_locations is not None
    for path in Path(keras.submodule_search_locations[0], "src", "callbacks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name == name:
                init = next(part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
                return [argument.arg for argument in init.args.args[1:]]
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("callback", "fragments"),
    [
        ("EarlyStopping", ["train.early_stopping"]),
        ("keras.callbacks:BackupAndRestore", ["every member is checkpointed"]),
        ("keras.callbacks:CSVLogger", ["name it without its module, as CSVLogger"]),
        (configured("ModelCheckpoint"), ["train.checkpoint"]),
        ("BackupAndRestore", ["every member is checkpointed"]),
        ("LearningRateScheduler", ["needs a function as schedule", "module:function"]),
        (configured("LearningRateScheduler", schedule=0.1), ["takes a function as schedule", "module:function"]),
        (configured("LearningRateScheduler", schedule="m:f", patience=1), ["no argument patience"]),
        (configured("LambdaCallback"), ["needs a function as on_epoch_begin"]),
        (configured("LambdaCallback", on_epoch_end="m:f", on_epoch="m:f"), ["no argument on_epoch", "on_epoch_end"]),
        ("ProgbarLogger", ["train.verbose"]),
        ("ReduceLROnPlatau", ["did you mean ReduceLROnPlateau?"]),
        ("csvlogger", ["did you mean CSVLogger?"]),
        ("Nothing like it", ["there are CSVLogger, LambdaCallback"]),
        ("m:", ["no callback of Keras"]),
    ],
)
def test_other_names_are_refused_with_the_remedy(callback: Any, fragments: list[str]) -> None:
    with pytest.raises(InvalidJob) as caught:
        job("TerminateOnNaN", callback)

    assert "train.callbacks.1" in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    "callback",
    [
        "m:Forgets",
        configured("m:Plain", rate=0.1),
        configured("m:Plain", rate=0.1, depth=3, folder="elsewhere"),
        configured("m:Open", anything=1),
        configured("m:Inherits", patience=3),
        configured("m:Decorated", rate=1),
        "m:Either",
    ],
)
def test_own_classes_that_exist_and_take_their_arguments_pass(callback: Any, tmp_path: Path) -> None:
    check_job(job(callback), project(tmp_path))


@pytest.mark.parametrize(
    ("callback", "where", "fragments"),
    [
        ("m:Forgts", "train.callbacks.0: m:Forgts", ["no class Forgts", "did you mean Forgets?"]),
        ("nowhere:Forgets", "train.callbacks.0: nowhere:Forgets", ["no module nowhere"]),
        ("m:Plain", "train.callbacks.0", ["constructor of Plain", "requires rate", "set config.rate"]),
        (
            configured("m:Plain", rate=1, dept=2),
            "train.callbacks.0.config.dept",
            ["no parameter dept", "did you mean depth?"],
        ),
        (configured("LearningRateScheduler", schedule="m:biuld"), "train.callbacks.0: m:biuld", ["no function biuld"]),
        (configured("m:Plain", rate=1, self=2), "train.callbacks.0.config.self", ["no parameter self"]),
    ],
)
def test_own_classes_are_checked_without_importing_them(
    callback: Any, where: str, fragments: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InvalidJob) as caught:
        check_job(job(callback), project(tmp_path))

    assert caught.value.where == where
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_the_modules_of_own_callbacks_belong_to_the_code(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("class Mine: ...", encoding="utf-8")
    root = project(tmp_path)

    assert "other.py" not in code_digest(job("CSVLogger"), root).files
    assert "other.py" in code_digest(job("CSVLogger", configured("other:Mine")), root).files
    for train in ({"loss": "other:loss"}, {"metrics": ["other:metric"]}):
        assert "other.py" in code_digest(job(train=train), root).files
    assert "other.py" in code_digest(job(configured("LambdaCallback", on_epoch_end="other:say")), root).files
    assert "other.py" in code_digest(job(members={"vary": {"train.loss": ["mse", "other:loss"]}}), root).files
    layer = {"class_name": "other:Layer", "config": {}}
    assert "other.py" in code_digest(job(members={"vary": {"extra": [None, layer]}}), root).files


def test_a_job_resumes_exactly_where_all_that_remembers_can_be_asked(tmp_path: Path) -> None:
    schedule = configured("LearningRateScheduler", schedule="m:build")
    others = [name for name in KERAS_CALLBACKS if name not in FUNCTIONS]
    assert reasons(tmp_path, *others, schedule, "m:Keeps") == ()


def test_functions_that_are_called_again_and_again_may_remember_what_is_lost(tmp_path: Path) -> None:
    (reason,) = reasons(tmp_path, configured("LambdaCallback", on_epoch_end="m:build"), "m:Keeps")
    assert reason == "what the functions of LambdaCallback remember, in variables of their module, is lost"


@pytest.mark.parametrize("callback", ["m:Forgets", "m:Half", "m:Inherits", "m:Either", configured("m:Plain", rate=1)])
def test_a_class_of_ones_own_without_state_is_named(callback: Any, tmp_path: Path) -> None:
    (reason,) = reasons(tmp_path, "m:Keeps", callback, callback)

    name = callback if isinstance(callback, str) else callback["class_name"]
    assert reason.startswith(f"{name} has no get_state and set_state")


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"train": {"deterministic": False}}, "train.deterministic is false"),
        ({"train": {"jit_compile": True}}, "train.jit_compile"),
        ({"resources": {"num_gpus": 1}}, "GPU"),
    ],
)
def test_what_is_not_deterministic_does_not_resume_exactly(parts: dict[str, Any], word: str, tmp_path: Path) -> None:
    (reason,) = reasons(tmp_path, **parts)

    assert word in reason


def test_a_gpu_in_deterministic_mode_resumes_exactly(tmp_path: Path) -> None:
    assert reasons(tmp_path, train={"deterministic": True}, resources={"num_gpus": 1}) == ()
