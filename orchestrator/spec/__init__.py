"""What is asked: the job file, checked before anything is started.

`load_job` reads YAML into a `Job` (frozen pydantic models, every key known, every error with file and line);
`check_job` looks at the user's own modules without importing them; `identity` says what makes two runs the same.
Nothing here imports Keras, TensorFlow, Ray or the user's code.
"""

from orchestrator.spec.base import KerasObject, Range
from orchestrator.spec.check import CheckedJob, check_job, exactness
from orchestrator.spec.deadline import deadline_at
from orchestrator.spec.identity import (
    CodeDigest,
    code_digest,
    default_run_id,
    difference,
    differing,
    identity,
    identity_digest,
    needed_modules,
)
from orchestrator.spec.job import Job
from orchestrator.spec.layers import names_slow_layers
from orchestrator.spec.load import load_job, parse_job
from orchestrator.spec.members import DataSpec, FoldsSpec, MemberOverride, MembersSpec, ModelSpec, ValidationSplitSpec
from orchestrator.spec.overrides import apply_overrides
from orchestrator.spec.references import FoundFunction, find_function
from orchestrator.spec.schema import job_schema
from orchestrator.spec.search import SearchSpec
from orchestrator.spec.settings import (
    EnsembleSpec,
    FaultsSpec,
    GateSpec,
    RaySpec,
    ReportSpec,
    ResourcesSpec,
    StopWhenSpec,
    StorageSpec,
)
from orchestrator.spec.smoke import SmokeJob, smoke_job
from orchestrator.spec.train import CheckpointSpec, EarlyStoppingSpec, TrainSpec
from orchestrator.spec.transfer import AllButLast, BaseSpec, BestOver, Freeze, StageSpec
from orchestrator.spec.yaml import Document, load_yaml

__all__ = [
    "AllButLast",
    "BaseSpec",
    "BestOver",
    "CheckedJob",
    "CheckpointSpec",
    "CodeDigest",
    "DataSpec",
    "Document",
    "EarlyStoppingSpec",
    "EnsembleSpec",
    "FaultsSpec",
    "FoldsSpec",
    "FoundFunction",
    "Freeze",
    "GateSpec",
    "Job",
    "KerasObject",
    "MemberOverride",
    "MembersSpec",
    "ModelSpec",
    "Range",
    "RaySpec",
    "ReportSpec",
    "ResourcesSpec",
    "SearchSpec",
    "SmokeJob",
    "StageSpec",
    "StopWhenSpec",
    "StorageSpec",
    "TrainSpec",
    "ValidationSplitSpec",
    "apply_overrides",
    "check_job",
    "code_digest",
    "deadline_at",
    "default_run_id",
    "difference",
    "differing",
    "exactness",
    "find_function",
    "identity",
    "identity_digest",
    "job_schema",
    "load_job",
    "load_yaml",
    "names_slow_layers",
    "needed_modules",
    "parse_job",
    "smoke_job",
]
