"""The job's own functions and classes: imported by reference, and pointed at where they raise."""

from __future__ import annotations

import importlib
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.errors import InvalidJob


def import_function(reference: str) -> Callable[..., Any]:
    """Import what `module:function` names, from the working directory or the environment.

    Raises:
        InvalidJob: the module cannot be imported, or has no such function.
    """
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything while it is imported
        what = f"cannot import {module_name}: {type(error).__name__}: {error}"
        raise InvalidJob(what, where=in_user_code(error, reference)) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidJob(f"{module_name} has no function {name}", where=reference)
    return function  # type: ignore[no-any-return]  # getattr knows no types


def in_user_code(error: BaseException, reference: str) -> str:
    """Where in the user's own code an error came from, for messages.

    Args:
        error: as caught, with its traceback.
        reference: `module:function` that was imported or called.

    Returns:
        `<file>:<line> (<reference>)` of the deepest line outside of Python's own and installed packages; the bare
        reference where there is none.
    """
    paths = sysconfig.get_paths()
    foreign = ("<", paths["stdlib"], paths["purelib"], paths["platlib"], str(Path(__file__).parents[1]))
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(foreign)]
    return f"{own[-1].filename}:{own[-1].lineno} ({reference})" if own else reference
