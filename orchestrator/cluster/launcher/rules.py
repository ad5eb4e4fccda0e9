"""What is unsafe, dear or unfinished in a cluster launcher file. Pure: neither Ray nor a cloud is asked.

The file has passed Ray's own validator before, and its defaults are filled in, so what Ray's schema says is trusted.
What stands inside `node_config` is the cloud's, and of that only AWS's is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

Config = Mapping[str, Any]

LONG_IDLE_MINUTES = 60
SPOT_FIRST = "orchestrator.cluster.launcher.aws.SpotFirstNodeProvider"

_EVERYBODY = {"0.0.0.0/0", "::/0"}
_CREDENTIALS = {".aws", ".ssh", ".env", ".netrc", ".kube", ".pypirc", "gcloud"}
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_DASHBOARD = re.compile(r"--dashboard-host[=\s]+['\"]?(\$\([^)]*\)|[^\s'\"]+)")
_AUTH_MODE = re.compile(r"\bRAY_AUTH_MODE=['\"]?(\w+)")
_TOKEN_PATH = re.compile(r"\bRAY_AUTH_TOKEN_PATH=['\"]?([^\s'\"]+)")
_TOKEN_FETCHED = re.compile(r"\bRAY_AUTH_TOKEN=['\"]?\$")
_RAY_IMAGE = re.compile(r"(?:^|/)ray(?:-ml|-llm)?:(?P<ray>\d+\.\d+\.\d+)\S*?(?:-py(?P<python>3\d+))?(?:-|$)")
_PLACEHOLDER = re.compile(r"\b(MY|YOUR)-[A-Z]+\b")

_SECRETS = {
    "an AWS access key id": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "AWS credentials": r"(?i)\baws_(secret_access_key|session_token|access_key_id)['\"]?\s*[=:]\s*['\"]?[^\s'\"$]",
    "Ray's token": r"\bRAY_AUTH_TOKEN['\"]?\s*[=:]\s*['\"]?[^\s'\"$]",
    "a service's token": r"\b(hf_|gh[pousr]_|github_pat_|glpat-|xox[abp]-|sk-)[A-Za-z0-9_-]{16,}",
    "a secret in a variable": r"\b[A-Z][A-Z0-9_]*_(TOKEN|SECRET|API_?KEY)['\"]?\s*[=:]\s*['\"]?[^\s'\"$<…]",
    "a password": r"(?i)\bpassw(or)?d['\"]?\s*[=:]\s*['\"]?[^\s'\"$]",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a token or key in hexadecimal": r"(?<!sha256:)\b[0-9a-fA-F]{32,}\b",
    "a password in a URL": r"://[^/\s:@]*:[^/\s@]+@",
}


@dataclass(frozen=True)
class Finding:
    """One thing to mend. An error is what would not work, or would let others in; a warning costs, or is unfinished.

    Attributes:
        level: `error` or `warning`.
        where: the key, dots between its parts, or the line.
        what: one sentence: what is wrong.
        hint: how to mend it.
    """

    level: Literal["error", "warning"]
    where: str
    what: str
    hint: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n  → {self.hint}"


def check_text(text: str) -> Iterator[Finding]:
    """Secrets in the file, comments included. What was found is named by its line, never repeated."""
    hint = "nodes get rights from an instance profile, and Ray's token from a mounted file; change this secret"
    for number, line in enumerate(text.splitlines(), start=1):
        if (kind := secret_in(line)) is not None:
            yield Finding("error", f"line {number}", f"this looks like {kind}", hint)


def secret_in(text: str) -> str | None:
    """What kind of secret is in it, if any."""
    return next((kind for kind, pattern in _SECRETS.items() if re.search(pattern, text)), None)


def check_given(given: Config) -> Iterator[Finding]:
    """What the file leaves open: placeholders, and limits that would be Ray's defaults.

    Args:
        given: the file as it was written.
    """
    for where, value in _texts(given):
        if found := _PLACEHOLDER.search(value):
            yield Finding("warning", where, f"{found[0]} is a placeholder", "put your own name there")
    if "max_workers" not in given:
        what = "nothing says how many workers there may be at most: it is Ray's default, not what you can afford"
        yield Finding("warning", "max_workers", what, "set max_workers")
    if "idle_timeout_minutes" not in given:
        what = "nothing says when a worker without work goes: it is Ray's default, where the provider has one"
        yield Finding("warning", "idle_timeout_minutes", what, "set idle_timeout_minutes: 5")


def check_prepared(config: Config, *, ray_version: str) -> Iterator[Finding]:
    """Access, rights, costs and versions.

    Args:
        config: the file with Ray's defaults filled in.
        ray_version: of this environment, from which the cluster is started and jobs are submitted.
    """
    yield from _check_access(config)
    yield from _check_mounts(config.get("file_mounts") or {})
    yield from _check_growth(config)
    yield from _check_costs(config)
    yield from _check_images(config.get("docker") or {}, config["available_node_types"], ray_version)
    if is_aws(config):
        yield from _check_aws(config)


def is_aws(config: Config) -> bool:
    """Whether nodes are EC2 instances, started by Ray's own provider or by ours."""
    provider = config["provider"]
    return bool(provider["type"] == "aws" or provider.get("module") == SPOT_FIRST)


def is_spot(node_type: Config) -> bool:
    """Whether EC2 sells these nodes on the spot market, and may take them back."""
    market = node_type["node_config"].get("InstanceMarketOptions")
    return isinstance(market, Mapping) and bool(market.get("MarketType") == "spot")


def worker_types(config: Config) -> dict[str, Config]:
    """The node types that can be started as workers, by name; the head's own only where it allows some."""
    return {name: each for name, each in config["available_node_types"].items() if each.get("max_workers", 0) > 0}


def token_path(config: Config) -> str | None:
    """Where the head's processes look for the token, as far as the file says."""
    options = (config.get("docker") or {}).get("run_options", ())
    return _last(_TOKEN_PATH, [*options, *config["head_start_ray_commands"]])


def _check_access(config: Config) -> Iterator[Finding]:
    docker = config.get("docker") or {}
    head_starts = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    hosts = [host for command in head_starts for host in _DASHBOARD.findall(command)]
    is_open = any(host not in _LOOPBACK for host in hosts)
    head = [*docker.get("run_options", ()), *docker.get("head_run_options", ()), *head_starts]
    worker = [
        *docker.get("run_options", ()),
        *docker.get("worker_run_options", ()),
        *config["worker_start_ray_commands"],
    ]
    modes = [mode and mode.lower() for mode in (_last(_AUTH_MODE, texts) for texts in (head, worker))]
    has_token = modes == ["token", "token"]
    if is_open:
        what = f"the dashboard and its job server listen on {', '.join(hosts)}: who reaches them can run any code"
        hint = "give `ray start --head` --dashboard-host=127.0.0.1, and reach it through `ray dashboard`"
        yield Finding("warning" if has_token else "error", "head_start_ray_commands", what, hint)
    if not has_token:
        what = "the cluster asks nobody for a token: who reaches the head's ports can run any code"
        if modes[0] != modes[1]:
            what = f"the head asks for {modes[0] or 'no token'}, the workers bring {modes[1] or 'none'}"
        hint = "add --env RAY_AUTH_MODE=token to docker.run_options, and the token's file to file_mounts"
        yield Finding("error" if is_open or modes[0] != modes[1] else "warning", "docker.run_options", what, hint)
    elif not _token_arrives([*head, *worker], config.get("file_mounts") or {}):
        what = "every process asks for the token, but no file_mounts bring it to where they look"
        hint = "mount the token's folder, and name the file in it by --env RAY_AUTH_TOKEN_PATH=…"
        yield Finding("error", "file_mounts", what, hint)


def _token_arrives(texts: list[str], mounts: Config) -> bool:
    if any(_TOKEN_FETCHED.search(text) for text in texts):
        return True
    path = _last(_TOKEN_PATH, texts)
    if path is None:  # where Ray looks by itself
        return any(remote.rstrip("/").endswith(("/.ray", "/.ray/auth_token")) for remote in mounts)
    return any(PurePosixPath(path).is_relative_to(remote) for remote in mounts)


def _check_mounts(mounts: Config) -> Iterator[Finding]:
    for remote, local in mounts.items():
        if not _CREDENTIALS.isdisjoint(PurePosixPath(local).parts):
            what = f"{local} goes to every node: whoever runs a job there can read your own credentials"
            hint = "leave it here: nodes get rights from an instance profile"
            yield Finding("warning", f"file_mounts.{remote}", what, hint)


def _check_growth(config: Config) -> Iterator[Finding]:
    """Whether an autoscaler starts with the head; a start by a script of one's own may bring one."""
    starts = [each for each in config["head_start_ray_commands"] if "ray start" in each and "--head" in each]
    if worker_types(config) and starts and not any("--autoscaling-config" in each for each in starts):
        what = "the head starts without its autoscaler: no worker would ever come"
        hint = "give `ray start --head` --autoscaling-config=~/ray_bootstrap_config.yaml"
        yield Finding("error", "head_start_ray_commands", what, hint)


def _check_costs(config: Config) -> Iterator[Finding]:
    minutes = config.get("idle_timeout_minutes", 0)
    if minutes > LONG_IDLE_MINUTES:
        what = f"a worker without work is paid for {minutes:g} minutes more"
        yield Finding("warning", "idle_timeout_minutes", what, "storage holds the results: 5 minutes are enough")
    for name, node_type in worker_types(config).items():
        if (kept := node_type.get("min_workers", 0)) > 0:
            what = f"{kept} of these nodes are paid for as long as the cluster is up"
            yield Finding(
                "warning", f"available_node_types.{name}.min_workers", what, "set it to 0: nodes come for work"
            )


def _check_images(docker: Config, node_types: Mapping[str, Config], ray_version: str) -> Iterator[Finding]:
    """Versions that the images' names tell; of images of your own, `doctor` asks the nodes themselves."""
    if "image" not in docker and not docker.keys().isdisjoint({"head_image", "worker_image"}):
        what = "head_image and worker_image replace an image that is not there: Ray's autoscaler fails at each worker"
        yield Finding("error", "docker.image", what, "set image as well, to the same as head_image")
    images = {"docker.head_image": docker.get("head_image", docker.get("image"))}
    images["docker.worker_image"] = docker.get("worker_image", docker.get("image"))
    images |= {
        f"available_node_types.{name}.docker.worker_image": node_type.get("docker", {}).get("worker_image")
        for name, node_type in node_types.items()
    }
    told = {where: match for where, image in images.items() if image and (match := _RAY_IMAGE.search(image))}
    for part, name in (("ray", "Ray"), ("python", "Python")):
        versions = {where: match[part] for where, match in told.items() if match[part]}
        if len(set(versions.values())) > 1:
            what = f"{name} differs: {', '.join(f'{version} in {where}' for where, version in versions.items())}"
            yield Finding("error", "docker", what, "take images of one version: Ray refuses nodes of another one")
        elif part == "ray" and versions and ray_version not in versions.values():
            what = f"the images have Ray {next(iter(versions.values()))}, this environment has {ray_version}"
            hint = f"take images of {ray_version}, or install ray=={next(iter(versions.values()))} here"
            yield Finding("warning", "docker", what, hint)


def _check_aws(config: Config) -> Iterator[Finding]:
    node_types, head_name = config["available_node_types"], config["head_node_type"]
    for section, key, example in (("provider", "region", "us-west-2"), ("auth", "ssh_user", "ubuntu")):
        if not (config.get(section) or {}).get(key):
            what = "it is not said, and `ray up` does not go on without it"
            yield Finding("error", f"{section}.{key}", what, f"set it, such as `{key}: {example}`")
    if opened := sorted(_opened((config["provider"].get("security_group") or {}).get("IpPermissions") or ())):
        what = f"the whole internet may knock at {', '.join(opened)}"
        hint = "open no port but SSH's, 22: `ray dashboard` forwards the dashboard through it"
        yield Finding("warning", "provider.security_group", what, hint)
    for name, node_type in node_types.items():
        where = f"available_node_types.{name}.node_config"
        if not node_type["node_config"].get("IamInstanceProfile") and name == head_name:
            what = "the head has no instance profile: Ray makes it one with all rights on EC2 and on every bucket"
            yield Finding("warning", where, what, "name a profile of your own by IamInstanceProfile")
        elif not node_type["node_config"].get("IamInstanceProfile"):
            what = "these workers have no instance profile, and Ray gives them none: they cannot reach the bucket"
            yield Finding("error", where, what, "name one by IamInstanceProfile")
    if is_spot(node_types[head_name]):
        what = "the head is on the spot market: when AWS takes it, the run ends until it is submitted to a new cluster"
        hint = "leave InstanceMarketOptions out of the head's node_config"
        yield Finding("warning", f"available_node_types.{head_name}.node_config.InstanceMarketOptions", what, hint)
    workers = worker_types(config)
    if config["provider"].get("module") != SPOT_FIRST and any(is_spot(node_type) for node_type in workers.values()):
        what = "when the spot market has no such nodes, Ray asks for them for ever, other node types or not"
        hint = f"take provider.type: external and module: {SPOT_FIRST}, which buys them on demand then"
        yield Finding("warning", "provider.type", what, hint)
    if config["provider"].get("cache_stopped_nodes", True):
        what = "nodes are stopped, not terminated: their disks are paid for after `ray down`"
        yield Finding("warning", "provider.cache_stopped_nodes", what, "set it to false")


def _opened(rules: Iterable[Config]) -> Iterator[str]:
    """The ports, but for SSH's, that a security group opens to everybody."""
    for rule in rules:
        ranges = [*(rule.get("IpRanges") or ()), *(rule.get("Ipv6Ranges") or ())]
        from_all = any(_EVERYBODY.intersection(each.values()) for each in ranges)
        first, last = rule.get("FromPort", 0), rule.get("ToPort", 65535)
        if from_all and (first, last) != (22, 22):
            yield f"port {first}" if first == last else f"ports {first} to {last}"


def _last(pattern: re.Pattern[str], texts: list[str]) -> str | None:
    """The last match: what docker, and a shell, take of several."""
    found = [match for text in texts for match in pattern.findall(text)]
    return found[-1] if found else None


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested values, with its key."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping | list):
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _texts(each, f"{path}.{key}" if path else str(key))
