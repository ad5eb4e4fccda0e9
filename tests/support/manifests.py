"""What Argo Workflows and KubeRay accept, as far as `jobs/schedulers` says it: their names, their types, nothing else.

By the references of `argoproj.io/v1alpha1` Workflow and of `ray.io/v1` RayJob (KubeRay 1.5), and Kubernetes' own.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$")]
Prefix = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][-a-z0-9.]{0,57}$")]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?$")]
Duration = Annotated[str, StringConstraints(pattern=r"^[0-9]+[smhd]?$")]
Resources = dict[Literal["cpu", "memory", "nvidia.com/gpu"], Quantity]


class Strict(BaseModel):
    """An unknown key is an error, and 5 is no text."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Requirements(Strict):
    requests: Resources = {}
    limits: Resources = {}


class ContainerSpec(Strict):
    image: str
    command: list[str] = []
    args: list[str] = []
    workingDir: str | None = None
    resources: Requirements = Requirements()


class NamedContainer(ContainerSpec):
    name: Name


class ValueFrom(Strict):
    path: str


class Parameter(Strict):
    name: Name
    value: str | None = None
    valueFrom: ValueFrom | None = None


class Archive(Strict):
    none: dict[str, JsonValue]


class Artifact(Strict):
    name: Name
    path: str
    archive: Archive | None = None


class Parameters(Strict):
    parameters: list[Parameter] = []
    artifacts: list[Artifact] = []


class Backoff(Strict):
    duration: Duration
    factor: Annotated[str, StringConstraints(pattern=r"^[0-9]+$")]


class RetryStrategy(Strict):
    limit: Annotated[str, StringConstraints(pattern=r"^[0-9]+$")]
    retryPolicy: Literal["Always", "OnFailure", "OnError", "OnTransientError"]
    expression: str
    backoff: Backoff


class Step(Strict):
    name: Name
    template: Name
    arguments: Parameters | None = None


class Template(Strict):
    name: Name
    steps: list[list[Step]] | None = None
    container: ContainerSpec | None = None
    inputs: Parameters | None = None
    outputs: Parameters | None = None
    retryStrategy: RetryStrategy | None = None
    podSpecPatch: str | None = None


class GeneratedName(Strict):
    generateName: Prefix


class WorkflowSpec(Strict):
    entrypoint: Name
    serviceAccountName: Name
    activeDeadlineSeconds: Annotated[int, Field(gt=0)]
    templates: list[Template]


class Workflow(Strict):
    """Argo's."""

    apiVersion: Literal["argoproj.io/v1alpha1"]
    kind: Literal["Workflow"]
    metadata: GeneratedName
    spec: WorkflowSpec


class PodSpec(Strict):
    serviceAccountName: Name
    terminationGracePeriodSeconds: Annotated[int, Field(ge=0)] | None = None
    containers: Annotated[list[NamedContainer], Field(min_length=1)]


class PodTemplate(Strict):
    spec: PodSpec


class HeadGroup(Strict):
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(HeadGroup):
    groupName: Name
    replicas: Annotated[int, Field(ge=0)]
    minReplicas: Annotated[int, Field(ge=0)]
    maxReplicas: Annotated[int, Field(ge=1)]


class AuthOptions(Strict):
    mode: Literal["disabled", "token"]


class RayClusterSpec(Strict):
    rayVersion: Annotated[str, StringConstraints(pattern=r"^2\.\d+\.\d+$")]
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool
    headGroupSpec: HeadGroup
    workerGroupSpecs: Annotated[list[WorkerGroup], Field(min_length=1)]


class RayJobSpec(Strict):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]
    backoffLimit: Annotated[int, Field(ge=0)]
    activeDeadlineSeconds: Annotated[int, Field(gt=0)]
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: Annotated[int, Field(ge=0)]
    runtimeEnvYAML: str
    rayClusterSpec: RayClusterSpec


class KnownName(Strict):
    name: Name


class RayJob(Strict):
    """KubeRay's."""

    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: KnownName
    spec: RayJobSpec
