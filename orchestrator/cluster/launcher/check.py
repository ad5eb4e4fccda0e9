"""A cluster launcher file (`ray up`), checked offline: by Ray's own validator, then by our own checks."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cluster.launcher.fit import check_job
from orchestrator.cluster.launcher.here import check_here
from orchestrator.cluster.launcher.rules import (
    Config,
    Finding,
    check_given,
    check_prepared,
    check_text,
    secret_in,
    worker_types,
)
from orchestrator.errors import InvalidCluster
from orchestrator.planning.placement import ClusterShape, NodeShape
from orchestrator.spec import Job
from orchestrator.spec.load import nearest_file
from orchestrator.spec.secrets import redact

_MOST_CHARACTERS = 300
_NEEDED = ("available_node_types", "head_node_type", "head_start_ray_commands", "worker_start_ray_commands")
_NEEDED_OUTSIDE = (
    *("max_workers", "file_mounts", "cluster_synced_files", "initialization_commands"),
    *("setup_commands", "head_setup_commands", "worker_setup_commands"),
)
"""What `ray up` stumbles over when it is not there: Ray's validator lets the first pass for some providers, and fills
in the others for its own, not for `type: external`.
"""


_TEXTS = {"items": {"type": "string"}}
_OBJECTS = {"items": {"type": "object"}}
_RULES = {"items": {"type": "object", "properties": {"IpRanges": _OBJECTS, "Ipv6Ranges": _OBJECTS}}}
_MORE_SCHEMA: dict[str, Any] = {
    "properties": {
        "docker": {"properties": {f"{of}run_options": _TEXTS for of in ("", "head_", "worker_")}},
        "file_mounts": {"additionalProperties": {"type": "string"}},
        "head_start_ray_commands": {"minItems": 1},
        "provider": {"properties": {"security_group": {"properties": {"IpPermissions": _RULES}}}},
        "worker_start_ray_commands": {"minItems": 1},
    }
}
"""What Ray's own schema leaves open, and Ray's code stumbles over: at a command of nodes that are paid for by then."""


def check_cluster(path: str, job: Job | None = None) -> tuple[Finding, ...]:
    """Everything there is to mend in a launcher file. Nothing is started, and no cloud is asked.

    Args:
        path: the file.
        job: also check that it could run there.

    Raises:
        InvalidCluster: the file cannot be read, or is no YAML mapping.
    """
    text, given = _read(path)
    findings = [*check_text(text), *check_given(given)]
    prepared = _prepare(given)
    if isinstance(prepared, Finding):
        return (prepared, *findings)
    findings += check_prepared(prepared, ray_version=version("ray"))
    findings += check_here(prepared)
    if job is not None:
        unsaid = [name for name, each in worker_types(prepared).items() if "CPU" not in each["resources"]]
        findings += check_job(_shape_of(prepared), job, unsaid=unsaid)
    return tuple(findings)


def _shape_of(prepared: Config) -> ClusterShape:
    """The cluster as it is after `ray up`: a head alone, and an autoscaler."""
    from orchestrator.cluster.autoscaling import autoscaler_of

    offered = prepared["available_node_types"][prepared["head_node_type"]]["resources"]
    head = NodeShape(offered.get("CPU", 0), offered.get("GPU", 0), is_head=True)
    return ClusterShape((head,), can_grow=True, autoscaler=autoscaler_of(prepared))


def _read(path: str) -> tuple[str, Config]:
    """The file as Ray reads it, anchors and merged keys included."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        given = yaml.safe_load(text)
    except FileNotFoundError:
        raise InvalidCluster("there is no such file", where=path, hint=nearest_file(Path(path))) from None
    except IsADirectoryError:
        raise InvalidCluster("is a folder, not a cluster launcher file", where=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidCluster(f"cannot be read ({type(error).__name__})", where=path) from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidCluster(f"is no YAML: {error.problem}", where=f"{path}{line}") from None
    except yaml.YAMLError as error:
        raise InvalidCluster(f"is no YAML ({type(error).__name__})", where=path) from None
    if not isinstance(given, Mapping):
        raise InvalidCluster("is no mapping of keys to values", where=path, hint="see cluster.yaml for an example")
    return text, given


def _prepare(given: Config) -> Config | Finding:
    """The file with Ray's defaults filled in; or what Ray's own validator has against it.

    It looks twice: at what was written, so that Ray's defaults do not stumble over it and it can say where, and at the
    whole.
    """
    from jsonschema import ValidationError, validate
    from ray.autoscaler._private.util import prepare_config, validate_config

    hint = "see Ray's reference of cluster launcher files"
    try:
        with _quiet("ray.autoscaler"), contextlib.redirect_stdout(sys.stderr):
            validate(given, _rays_schema())
            validate(given, _MORE_SCHEMA)
            outside = given["provider"]["type"] == "external"
            missing = [key for key in (*_NEEDED, *_NEEDED_OUTSIDE) if outside and key not in given]
            prepared: dict[str, Any] = {} if missing else prepare_config(dict(given))
            missing = missing or [key for key in _NEEDED if key not in prepared]
            if missing:
                what = "Ray refuses it: it is not said, and has no default here"
                return Finding("error", ", ".join(missing), what, hint)
            validate_config(prepared)
    except ValidationError as error:
        where = ".".join(map(str, error.absolute_path)) or "the file"
        return Finding("error", where, f"Ray refuses it: {_short(error.message, str(error.validator))}", hint)
    except Exception as error:  # Ray raises whatever its code runs into
        return Finding("error", "the file", f"Ray refuses it: {_short(f'{type(error).__name__}: {error}', '')}", hint)
    return prepared


def _rays_schema() -> Any:
    import ray.autoscaler

    return json.loads(Path(ray.autoscaler.__path__[0], "ray-schema.json").read_text(encoding="utf-8"))


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without the notes that Ray logs on what it fills in."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _short(message: str, rule: str) -> str:
    """Without a secret that Ray may quote, and without the rest of the file."""
    if secret_in(message) is not None:
        return f"not repeated here, as it quotes a secret{f'; the rule is {rule!r}' if rule else ''}"
    text = str(redact(message))
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
