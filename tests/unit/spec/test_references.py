"""Finding the job's functions without running any of the user's code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.errors import InvalidJob
from orchestrator.spec import find_function
from orchestrator.spec.references import MAX_FILES


def write(root: Path, **files: str) -> str:
    """Write modules (`pkg__DIR__mod` is pkg/mod.py); each raises if it is ever executed."""
    for name, text in files.items():
        path = root.joinpath(*name.split("__DIR__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\nraise SystemExit('this module was executed')\n", encoding="utf-8")
    return str(root)


def test_a_function_is_found_with_its_place_and_parameters(tmp_path: Path) -> None:
    root = write(tmp_path, jobs__DIR__digits="import keras\n\n\ndef build(units, *, rate=0.1, depth):\n    pass\n")

    found = find_function("jobs.digits:build", root)

    assert (found.module, found.name) == ("jobs.digits", "build")
    assert (found.file, found.line) == (str(tmp_path / "jobs" / "digits.py"), 4)
    assert found.parameters == ("units", "rate", "depth")
    assert found.required == ("units", "depth")
    assert not found.accepts_any


def test_nothing_is_executed_or_imported_on_the_way(tmp_path: Path) -> None:
    root = write(
        tmp_path, lib__DIR____init__="", lib__DIR__sub__DIR____init__="", lib__DIR__sub__DIR__m="def f(): pass"
    )
    before = set(sys.modules)

    find_function("lib.sub.m:f", root)

    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("text", "parameters", "required", "accepts_any"),
    [
        ("def f(): pass", (), (), False),
        ("def f(a, b=1): pass", ("a", "b"), ("a",), False),
        ("def f(**kwargs): pass", (), (), True),
        ("def f(*args, a): pass", ("a",), ("a",), False),
        ("def f(a, /, b): pass", ("b",), ("a", "b"), False),
        ("if True:\n    def f(a): pass", ("a",), ("a",), False),
        ("try:\n    import x\nexcept ImportError:\n    pass\nelse:\n    def f(a): pass", ("a",), ("a",), False),
        ("try:\n    pass\nfinally:\n    def f(a): pass", ("a",), ("a",), False),
        ("with x:\n    def f(a): pass", ("a",), ("a",), False),
        ("def f(old): pass\ndef f(new): pass", ("new",), ("new",), False),
        ("import functools\n@functools.lru_cache(maxsize=1)\ndef f(a): pass", ("a",), ("a",), False),
        # what cannot be known without running it
        ("@decorate\ndef f(a): pass", None, (), False),
        ("f = make()", None, (), False),
        ("f: object = make()", None, (), False),
        ("f, g = make()", None, (), False),
        ("class f: pass", None, (), False),
        ("if x:\n    def f(a): pass\nelse:\n    def f(b): pass", None, (), False),
        ("from nowhere import f", None, (), False),
        ("from nowhere import *", None, (), False),
        ("def __getattr__(name): pass", None, (), False),
        # both branches the same
        ("if x:\n    def f(a): pass\nelse:\n    def f(a): pass", ("a",), ("a",), False),
    ],
)
def test_parameters_are_read_wherever_they_can_be_known(
    tmp_path: Path, text: str, parameters: tuple[str, ...] | None, required: tuple[str, ...], accepts_any: bool
) -> None:
    found = find_function("m:f", write(tmp_path, m=text))

    assert (found.parameters, found.required, found.accepts_any) == (parameters, required, accepts_any)


def test_imported_functions_are_followed_to_where_they_are_defined(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        lib__DIR____init__="from .core import *",
        lib__DIR__core="from .deep.inner import g as f",
        lib__DIR__deep__DIR__inner="def g(a, b=2): pass",
        job="from lib import f as build",
    )

    found = find_function("job:build", root)

    assert (found.module, found.name) == ("job", "build")
    assert found.file == str(tmp_path / "lib" / "deep" / "inner.py")
    assert found.parameters == ("a", "b")


def test_imports_in_a_circle_end(tmp_path: Path) -> None:
    root = write(tmp_path, a="from b import f", b="from a import f", c="from d import *", d="from c import *")

    assert find_function("a:f", root).parameters is None
    with pytest.raises(InvalidJob, match="there is no function f"):
        find_function("c:f", root)


def test_a_chain_of_imports_without_end_in_sight_counts_as_unknown(tmp_path: Path) -> None:
    chain = {f"m{index}": f"from m{index + 1} import f" for index in range(MAX_FILES + 1)}
    root = write(tmp_path, **chain, **{f"m{MAX_FILES + 1}": "def f(a): pass"})

    assert find_function("m0:f", root).parameters is None
    assert find_function("m9:f", root).parameters == ("a",)


def test_a_fallback_after_a_failed_import_counts(tmp_path: Path) -> None:
    text = "try:\n    from fast import f\nexcept ImportError:\n    def f(a): pass"

    assert find_function("m:f", write(tmp_path, m=text)).parameters is None


def test_the_root_comes_first_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, m="def f(here): pass")
    write(there, m="def f(there): pass", other="def g(): pass")
    monkeypatch.syspath_prepend(str(there))

    assert find_function("m:f", str(here)).parameters == ("here",)
    assert find_function("other:g", str(here)).file == str(there / "other.py")


def test_a_module_written_a_moment_ago_is_found(tmp_path: Path) -> None:
    root = write(tmp_path, a="def f(): pass")
    find_function("a:f", root)

    write(tmp_path, b="def f(): pass")

    assert find_function("b:f", root).name == "f"


def test_nested_folders_without_init_are_packages(tmp_path: Path) -> None:
    assert find_function("a.b.c:f", write(tmp_path, a__DIR__b__DIR__c="def f(): pass")).module == "a.b.c"


def test_compiled_modules_cannot_be_checked_and_pass(tmp_path: Path) -> None:
    assert find_function("math:sqrt", str(tmp_path)).parameters is None


@pytest.mark.parametrize(
    ("ref", "fragments"),
    [
        ("jobs.digits:bild", ["there is no function bild in", "did you mean build?"]),
        ("jobs.digit:build", ["there is no module jobs.digit", "did you mean jobs.digits?", "searched in"]),
        ("job.digits:build", ["there is no module job", "did you mean jobs?"]),
        ("jobs.digits.deep:build", ["jobs.digits is a module, not a package"]),
        ("jobs:build", ["folder without __init__.py"]),
        ("jobs.broken:f", ["not valid Python"]),
        ("jobs.coroutine:f", ["async function"]),
        ("jobs.empty:f", ["defines no functions"]),
        ("jobs.digits", ["not a reference", "module:function"]),
        ("../x:f", ["not a reference"]),
        ("random:build", ["Python's own", "rename"]),
    ],
)
def test_a_wrong_reference_is_refused_with_the_nearest_right_one(
    tmp_path: Path, ref: str, fragments: list[str]
) -> None:
    root = write(
        tmp_path,
        jobs__DIR__digits="def build(): pass\ndef load(): pass",
        jobs__DIR__broken="x = 1\ndef f(:\n",
        jobs__DIR__coroutine="async def f(): pass",
        jobs__DIR__empty="",
        random="def build(): pass",
    )

    with pytest.raises(InvalidJob) as caught:
        find_function(ref, root)

    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_syntax_error_is_reported_where_it_is(tmp_path: Path) -> None:
    root = write(tmp_path, broken="x = 1\ndef f(:\n    pass")

    with pytest.raises(InvalidJob) as caught:
        find_function("broken:f", root)

    assert caught.value.where == f"{tmp_path / 'broken.py'}:2"


@pytest.mark.parametrize("content", [b"\x00", b"\xff\xfe", b"x = " + b"(" * 5000])
def test_a_file_that_is_no_python_source_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.py").write_bytes(content)

    with pytest.raises(InvalidJob):
        find_function("broken:f", str(tmp_path))
