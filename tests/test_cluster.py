"""cluster/: the manifests, the image and the submit script fit Ray, the sweep's own flags and one another.

No cluster is asked. Ray's own parsers read both manifests (the autoscaler's schema, and KubeRay's translation of a pod
group to resources); the RayJob is held to a schema of the fields we use and to rules about money, safety and resume.
"""

import copy
import os
import re
import shlex
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.kuberay.utils import parse_quantity
from ray.autoscaler._private.util import prepare_config, validate_config
from repository import ROOT

from sweeps.machines.resources import Resources
from sweeps.stages.command_line import make_parser

CLUSTER = ROOT / "cluster"
RAY_VERSION = version("ray")
OBJECT_STORE_SHARE = 0.3  # of a pod's memory, in /dev/shm
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
FLAG = {"type": "boolean"}
START_PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}  # `num-cpus: 0` must be "0"


def exactly(optional: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    """A schema of an object with these fields and no others: a misspelt field is an error."""
    required = [name for name in fields if name not in optional]
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


def several(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of a list with at least one such element."""
    return {"type": "array", "items": schema, "minItems": 1}


QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^\d+(m|Ki|Mi|Gi)?$"}}
CONTAINER = exactly(
    ("ports", "env"),
    name=TEXT,
    image=TEXT,
    ports=several(exactly(name=TEXT, containerPort=COUNT)),
    env=several(exactly(name=TEXT, value=TEXT)),
    resources=exactly(requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=several(exactly(name=TEXT, mountPath=TEXT)),
)
VOLUME = exactly(
    ("persistentVolumeClaim", "emptyDir"),
    name=TEXT,
    persistentVolumeClaim=exactly(claimName=TEXT),
    emptyDir=exactly(medium={"const": "Memory"}, sizeLimit=TEXT),
)
TOLERATION = exactly(
    ("value",), key=TEXT, operator={"enum": ["Exists", "Equal"]}, value=TEXT, effect={"enum": ["NoSchedule"]}
)
POD = exactly(
    spec=exactly(
        ("securityContext", "tolerations", "nodeSelector"),
        restartPolicy={"const": "Never"},  # the autoscaler's second version must not meet a pod again
        securityContext=exactly(fsGroup=COUNT, fsGroupChangePolicy={"enum": ["OnRootMismatch", "Always"]}),
        nodeSelector={"type": "object"},
        tolerations=several(TOLERATION),
        containers=several(CONTAINER),
        volumes=several(VOLUME),
    )
)
HEAD = exactly(serviceType=TEXT, enableIngress=FLAG, rayStartParams=START_PARAMS, template=POD)
WORKERS = exactly(
    groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=START_PARAMS, template=POD
)
RAY_CLUSTER = exactly(
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=exactly(mode={"enum": ["token", "disabled"]}),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=exactly(idleTimeoutSeconds=COUNT),
    headGroupSpec=HEAD,
    workerGroupSpecs=several(WORKERS),
)
RAY_JOB = exactly(
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=exactly(name={"type": "string", "pattern": "^[a-z0-9-]{1,47}$"}),  # KubeRay's limit for a RayJob
    spec=exactly(
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        backoffLimit=COUNT,
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=RAY_CLUSTER,
    ),
)


def read_yaml(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


def changed(manifest: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one value replaced, or added; `None` removes it."""
    manifest = copy.deepcopy(manifest)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    place: Any = manifest
    for step in parents:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return manifest


def node_types(job: dict[str, Any]) -> dict[str, Any]:
    """What the autoscaler makes of a RayJob's pod groups: resources and largest number of each."""
    cluster = {"metadata": {"namespace": "default", "name": "test"}, "spec": job["spec"]["rayClusterSpec"]}
    return _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]


def nodes_of(types: dict[str, Any]) -> list[dict[str, float]]:
    """Resources of a head and of as many workers as there may be."""
    counts = {name: 1 if name.startswith("head") else node["max_workers"] for name, node in types.items()}
    return [types[name]["resources"] for name, count in counts.items() for _ in range(count)]


def sweep_command(job: dict[str, Any]) -> tuple[str, Any]:
    """Script and flags of a RayJob's entrypoint, read by the sweep's own parser."""
    python, script, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert python == "python"
    return script, make_parser("").parse_args(arguments)


def shortage(job: dict[str, Any], there: list[dict[str, float]]) -> str | None:
    """Why a cluster cannot hold the RayJob's sweep, by the sweep's own check."""
    _, options = sweep_command(job)
    wanted = Resources(
        concurrent=options.concurrent,
        workers=options.workers,
        gpus_per_worker=options.gpus_per_worker,
        data_cpus_per_worker=options.data_cpus,
    )
    return wanted.shortage(there)


def broken_rules(job: dict[str, Any]) -> set[str]:
    """Names of the rules that a RayJob breaks."""
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    pods = [group["template"]["spec"] for group in (head, *groups)]
    containers = [pod["containers"][0] for pod in pods]
    options, types = sweep_command(job)[1], node_types(job)
    shared = {claim_mount(pod) for pod in pods}
    on_shared = len(shared) == 1 and all(
        str(path).startswith(f"{max(shared)}/") for path in (options.data, options.out)
    )
    initial = changed(job, "spec/rayClusterSpec/workerGroupSpecs/0/maxReplicas", groups[0]["replicas"])
    rules = {
        "one Ray version": {cluster["rayVersion"], *(image_version(c["image"]) for c in containers)} == {RAY_VERSION},
        "one image": len({container["image"] for container in containers}) == 1,
        "token": cluster["authOptions"]["mode"] == "token",
        "dashboard inside": head["serviceType"] == "ClusterIP" and not head["enableIngress"],
        "no work on the head": types["headgroup"]["resources"]["CPU"] == 0 and not types["headgroup"].get("GPU"),
        "slots for drivers": types["headgroup"]["resources"].get("TRAIN_DRIVER", 0) >= options.concurrent,
        "head is not spot": "tolerations" not in pods[0],
        "workers may be spot": all(any("spot" in str(line) for line in pod["tolerations"]) for pod in pods[1:]),
        "nothing is kept idle": cluster["enableInTreeAutoscaling"]
        and not any(group["minReplicas"] for group in groups),
        "the cluster goes": spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] > 0,
        "retries continue": not spec["backoffLimit"] or (options.resume == "auto" and on_shared),
        "data and results are shared": on_shared,
        "requests are limits": all(c["resources"]["requests"] == c["resources"]["limits"] for c in containers),
        "object store fits": all(shm_bytes(pod) >= OBJECT_STORE_SHARE * memory_bytes(pod) for pod in pods),
        "the sweep fits": shortage(job, nodes_of(types)) is None,
        "the sweep fits at once": shortage(job, nodes_of(node_types(initial))) is None,
    }
    return {name for name, kept in rules.items() if not kept}


def image_version(image: str) -> str:
    return image.rpartition(":")[2]


def claim_mount(pod: dict[str, Any]) -> str:
    """Where a pod's first container has the shared volume; empty if nowhere."""
    claims = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
    return next((m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if m["name"] in claims), "")


def shm_bytes(pod: dict[str, Any]) -> int:
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    sizes = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume}
    return int(parse_quantity(sizes.get(mounts.get("/dev/shm"), "0")))


def memory_bytes(pod: dict[str, Any]) -> int:
    return int(parse_quantity(pod["containers"][0]["resources"]["limits"]["memory"]))


def test_rayjob_has_known_fields_and_keeps_the_rules():
    job = read_yaml("rayjob.yaml")
    jsonschema.validate(job, RAY_JOB)
    assert broken_rules(job) == set()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec/backofLimit", 2),
        ("spec/rayClusterSpec/authOption", {"mode": "token"}),
        ("spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", 0),  # a number: the API server refuses it
        ("spec/rayClusterSpec/workerGroupSpecs/0/minReplica", 0),
        ("spec/rayClusterSpec/workerGroupSpecs/0/template/spec/toleration", []),
        ("spec/entrypoint", None),
        ("apiVersion", "ray.io/v1alpha1"),
    ],
)
def test_schema_catches_a_typo(path, value):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(read_yaml("rayjob.yaml"), path, value), RAY_JOB)


HEAD_SPEC = "spec/rayClusterSpec/headGroupSpec"
WORKER_SPEC = "spec/rayClusterSpec/workerGroupSpecs/0"


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("spec/rayClusterSpec/rayVersion", "2.59.0", "one Ray version"),
        (f"{WORKER_SPEC}/template/spec/containers/0/image", f"other:{RAY_VERSION}", "one image"),
        ("spec/rayClusterSpec/authOptions/mode", "disabled", "token"),
        (f"{HEAD_SPEC}/serviceType", "LoadBalancer", "dashboard inside"),
        (f"{HEAD_SPEC}/enableIngress", True, "dashboard inside"),
        (f"{HEAD_SPEC}/rayStartParams/num-cpus", "4", "no work on the head"),
        (f"{HEAD_SPEC}/rayStartParams/resources", r'"{\"TRAIN_DRIVER\": 1}"', "slots for drivers"),
        (f"{HEAD_SPEC}/template/spec/tolerations", [], "head is not spot"),
        (f"{WORKER_SPEC}/template/spec/tolerations", [], "workers may be spot"),
        (f"{WORKER_SPEC}/minReplicas", 1, "nothing is kept idle"),
        ("spec/shutdownAfterJobFinishes", False, "the cluster goes"),
        (f"{HEAD_SPEC}/template/spec/volumes/1/emptyDir/sizeLimit", "1Gi", "object store fits"),
        (f"{WORKER_SPEC}/template/spec/containers/0/volumeMounts", [], "data and results are shared"),
        (f"{WORKER_SPEC}/template/spec/containers/0/resources/requests/cpu", "2", "requests are limits"),
        (f"{WORKER_SPEC}/maxReplicas", 3, "the sweep fits"),
        (f"{WORKER_SPEC}/replicas", 0, "the sweep fits at once"),
    ],
)
def test_a_broken_rule_is_named(path, value, rule):
    assert rule in broken_rules(changed(read_yaml("rayjob.yaml"), path, value))


@pytest.mark.parametrize(("before", "after"), [("--resume auto", "--resume never"), ("/mnt/shared/runs", "/tmp/runs")])
def test_retries_need_resume_on_the_shared_volume(before, after):
    job = read_yaml("rayjob.yaml")
    assert "retries continue" in broken_rules(
        changed(job, "spec/entrypoint", job["spec"]["entrypoint"].replace(before, after))
    )


def test_custom_resource_must_be_quoted_twice():
    with pytest.raises(ValueError, match="Extra data"):
        node_types(changed(read_yaml("rayjob.yaml"), f"{HEAD_SPEC}/rayStartParams/resources", '{"TRAIN_DRIVER": 4}'))


def test_ray_up_accepts_the_cluster():
    config = prepare_config(read_yaml("ray-cluster.yaml"))
    validate_config(config)
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["gpu-worker"]["min_workers"] == 0
    assert types["gpu-worker"]["max_workers"] <= config["max_workers"]
    job = read_yaml("rayjob.yaml")
    assert shortage(job, nodes_of(types)) is None
    assert types["head"]["resources"]["TRAIN_DRIVER"] >= sweep_command(job)[1].concurrent


@pytest.mark.parametrize(
    ("path", "value"),
    [("max_worker", 4), ("provider/type", None), ("available_node_types/head/resource", {}), ("docker/images", "x")],
)
def test_ray_up_catches_a_typo(path, value):
    with pytest.raises((jsonschema.ValidationError, KeyError)):
        validate_config(prepare_config(changed(read_yaml("ray-cluster.yaml"), path, value)))


def test_ray_up_has_a_token_on_every_node_and_no_open_dashboard():
    config = read_yaml("ray-cluster.yaml")
    (start,) = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


def test_one_ray_version_everywhere():
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (ray,) = [wanted for wanted in map(Requirement, requirements) if wanted.name == "ray"]
    assert RAY_VERSION in ray.specifier
    assert f"ray=={RAY_VERSION}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert f"FROM rayproject/ray:{RAY_VERSION}-py311-gpu\n" in (CLUSTER / "Dockerfile").read_text()
    assert image_version(read_yaml("ray-cluster.yaml")["docker"]["image"]) == RAY_VERSION


def test_dockerfile_copies_what_there_is_to_where_the_job_starts():
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[2:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    (folder,) = [line.split()[1] for line in lines if line.startswith("WORKDIR")]
    script = Path(sweep_command(read_yaml("rayjob.yaml"))[0]).relative_to(folder)
    assert (ROOT / script).is_file()
    assert script.parts[0] in copied


def test_cluster_files_hold_no_private_paths_or_addresses():
    allowed = {"127.0.0.1", "0.0.0.0"}
    for path in sorted(CLUSTER.iterdir()):
        text = path.read_text()
        assert not re.search(r"/(work|root|Users|home/(?!ray/))", text), path
        assert set(re.findall(r"\d+\.\d+\.\d+\.\d+", text)) <= allowed, path


FAKE_RAY = """#!/usr/bin/env bash
printf '%s\\n' "$PWD" "$RAY_AUTH_MODE" "$RAY_API_SERVER_ADDRESS" "$@"
exit 7
"""


def run_submit(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run submit.sh from a foreign folder with a `ray` that only prints what it was given."""
    fake = tmp_path / "ray"
    fake.write_text(FAKE_RAY)
    fake.chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    path = f"{tmp_path}{os.pathsep}{clean['PATH']}"
    command = ["bash", str(CLUSTER / "submit.sh"), *arguments]
    return subprocess.run(
        command, cwd=tmp_path, env=clean | environment | {"PATH": path}, capture_output=True, text=True
    )


def test_submit_passes_the_command_line_and_the_exit_status_on(tmp_path):
    assert subprocess.run(["bash", "-n", str(CLUSTER / "submit.sh")]).returncode == 0
    assert os.access(CLUSTER / "submit.sh", os.X_OK)
    done = run_submit(tmp_path, "sweeps/metric.py", "--data", "/mnt/shared/my animals", "--set", "optim.epochs=2")
    assert done.returncode == 7
    assert done.stdout.splitlines() == [
        *(str(ROOT), "token", "http://127.0.0.1:8265"),
        *("job", "submit", "--working-dir", ".", "--", "python"),
        *("sweeps/metric.py", "--data", "/mnt/shared/my animals", "--set", "optim.epochs=2"),
    ]


def test_submit_leaves_what_the_caller_set(tmp_path):
    done = run_submit(tmp_path, "sweeps/metric.py", RAY_AUTH_MODE="disabled", RAY_API_SERVER_ADDRESS="http://head:8265")
    assert done.stdout.splitlines()[1:3] == ["disabled", "http://head:8265"]


def test_submit_without_a_script_says_how(tmp_path):
    done = run_submit(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage" in done.stderr
