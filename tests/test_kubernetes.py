"""What is for Kubernetes is valid there, and passes the strictest of its security standards."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from operators_schema import SCHEMA
from packaging.requirements import Requirement
from processes import kill_tree, same, scheduler, started, wait_until, whole

import dnmf
from dnmf.cli.main import main

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy/kubernetes"
DOCUMENTS = {
    f"{path.relative_to(FOLDER)}-{document['kind']}-{number}": document
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name != "kustomization.yaml"
    for number, document in enumerate(yaml.safe_load_all(path.read_text()))
}
VARIANTS = ("volume", "bucket", "operator")
KUBERNETES = ("1.29", "1.30", "1.33", "1.37")
"""Versions whose schemas the manifests are held to, from the oldest that is promised on."""


def pods_in(node, where=""):
    """Yield where and what each pod is in a document of any kind: whatever has containers."""
    if isinstance(node, dict):
        if "containers" in node:
            yield where, node
        for key, value in node.items():
            yield from pods_in(value, f"{where}/{key}")
    elif isinstance(node, list):
        for value in node:
            yield from pods_in(value, where)


def containers_of(pod):
    return [*pod.get("initContainers", []), *pod["containers"]]


PODS = {f"{name}{where}": pod for name, each in DOCUMENTS.items() for where, pod in pods_in(each)}
CONTAINERS = {
    f"{name}-{container['name']}": container
    for name, pod in PODS.items()
    for container in containers_of(pod)
}
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
"""Types of volumes that the standard "restricted" allows."""


def not_restricted(pod):
    """Yield what of a pod breaks the standard "restricted", and what of dnmf's own rules."""
    wide = pod.get("securityContext", {})
    kept = {
        "runs as root": wide.get("runAsNonRoot") is True and wide.get("runAsUser"),
        "seccompProfile": wide.get("seccompProfile") == {"type": "RuntimeDefault"},
        "mounts a token": pod.get("automountServiceAccountToken") is False,
        "is part of its host": not {"hostNetwork", "hostPID", "hostIPC"} & set(pod),
    }
    for volume in pod.get("volumes", []):
        kept[f"volume {volume['name']}"] = set(volume) - {"name"} <= VOLUMES
    yield from (rule for rule, is_kept in kept.items() if not is_kept)
    for container in containers_of(pod):
        yield from not_restricted_alone(container)


def not_restricted_alone(container):
    """Yield what of a container breaks the same rules, whatever its pod says."""
    own = container.get("securityContext", {})
    folders = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
    kept = {
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
        "differs from its pod": not {"privileged", "runAsUser", "runAsNonRoot"} & set(own),
        "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
        "writes into its image": own.get("readOnlyRootFilesystem") is True,
        "has no folder to write to": "/tmp" in folders,
    }
    yield from (rule for rule, is_kept in kept.items() if not is_kept)


@pytest.mark.parametrize("name", PODS)
def test_every_pod_is_restricted(name):
    assert list(not_restricted(PODS[name])) == []


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        (["securityContext", "runAsNonRoot"], False, "runs as root"),
        (["securityContext", "runAsUser"], 0, "runs as root"),
        (["securityContext", "seccompProfile"], {"type": "Unconfined"}, "seccompProfile"),
        (["automountServiceAccountToken"], True, "mounts a token"),
        (["hostNetwork"], True, "is part of its host"),
        (["volumes", 0], {"name": "x", "hostPath": {"path": "/"}}, "volume x"),
        (["initContainers", 0, "securityContext"], {}, "capabilities"),
        (["containers", 0, "securityContext", "allowPrivilegeEscalation"], True, "allowPriv"),
        (["containers", 0, "securityContext", "privileged"], True, "differs"),
        (["containers", 0, "securityContext", "readOnlyRootFilesystem"], False, "writes"),
        (["containers", 0, "volumeMounts"], [], "has no folder"),
    ],
)
def test_what_is_not_restricted_is_found(path, value, found):
    pod = json.loads(json.dumps(PODS["base/fit.yaml-Job-1/spec/template/spec"]))
    node = pod
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    assert any(line.startswith(found) for line in not_restricted(pod))


def test_pods_of_all_kinds_are_looked_at():
    kinds = {document["kind"] for document in DOCUMENTS.values()}
    assert kinds == {
        "Namespace", "PersistentVolumeClaim", "NetworkPolicy", "Service", "Job",
        "PodDisruptionBudget", "DaskJob",
    }  # fmt: skip
    assert len(PODS) == 5
    namespace = DOCUMENTS["namespace.yaml-Namespace-0"]["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


WORKER = CONTAINERS["base/workers.yaml-Job-0/spec/template/spec-worker"]
PROGRAMS = {
    "dnmf fit": lambda: main.commands["fit"],
    "dask scheduler": lambda: entry_points(group="dask_cli")["scheduler"].load(),
    "dask worker": lambda: entry_points(group="dask_cli")["worker"].load(),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_commands_and_their_flags_exist(name):
    words = [*CONTAINERS[name]["command"], *CONTAINERS[name].get("args", [])]
    if words[0] == "sh":
        words = ["dask", "worker", *WORKER["args"]]
        assert f'{words[0]} {words[1]} "$@"' in WORKER["command"][2]
    command = PROGRAMS[" ".join(words[:2])]()
    flags = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    used = {word.split("=")[0] for word in words if word.startswith("-")}
    assert used
    assert used <= flags


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_bounded_and_schedulers_are_asked_for_their_health(name):
    container = CONTAINERS[name]
    assert container["image"] == "dnmf", "the name that common/kustomization.yaml replaces"
    assert container["resources"]["limits"]["memory"]
    probes = [container[probe]["httpGet"] for probe in container if probe.endswith("Probe")]
    if container["name"] == "scheduler":
        assert probes == [{"path": "/health", "port": "health"}] * 3
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert f"--dashboard-address=:{ports['health']}" in container["command"]
    else:
        assert not probes


def test_jobs_go_on_after_disruptions_and_are_removed_some_time_after_their_end():
    jobs = [each for each in DOCUMENTS.values() if each["kind"] == "Job"]
    assert len(jobs) == 2
    for job in jobs:
        rules = job["spec"]["podFailurePolicy"]["rules"]
        disrupted = [rule for rule in rules if "onPodConditions" in rule]
        condition = {"type": "DisruptionTarget", "status": "True"}
        assert disrupted == [{"action": "Ignore", "onPodConditions": [condition]}]
        assert job["spec"]["ttlSecondsAfterFinished"] > 0
        assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_labels_addresses_and_times_match():
    service = DOCUMENTS["base/fit.yaml-Service-0"]
    fit = DOCUMENTS["base/fit.yaml-Job-1"]["spec"]["template"]
    workers = DOCUMENTS["base/workers.yaml-Job-0"]["spec"]
    budget = DOCUMENTS["base/workers.yaml-PodDisruptionBudget-1"]["spec"]
    policy = DOCUMENTS["common/network.yaml-NetworkPolicy-0"]["spec"]
    labels = workers["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == fit["metadata"]["labels"]
    address = f"tcp://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert WORKER["args"][0] == address
    assert budget["selector"]["matchLabels"] == labels
    assert budget["minAvailable"] == workers["parallelism"] - 1
    job = DOCUMENTS["operator/fit.yaml-DaskJob-0"]
    selected = policy["podSelector"]["matchLabels"]
    for given in (labels, fit["metadata"]["labels"], job["metadata"]["labels"]):
        assert selected.items() <= given.items()
    for pod in (fit["spec"], job["spec"]["job"]["spec"]):
        (grace,) = (word for word in pod["containers"][0]["command"] if "--grace=" in word)
        assert int(grace.partition("=")[2]) < pod["terminationGracePeriodSeconds"]


def built(variant):
    """Build a variant as `kubectl apply -k` would."""
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    else:
        pytest.skip("neither kubectl nor kustomize is on this machine")
    done = subprocess.run([*command, FOLDER / variant], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_built(variant):
    documents = built(variant)
    assert {document["metadata"].get("namespace") for document in documents} == {"dnmf"}
    pods = [pod for document in documents for _, pod in pods_in(document)]
    assert len(pods) == (3 if variant == "operator" else 2)
    for pod in pods:
        assert list(not_restricted(pod)) == []
        for container in containers_of(pod):
            assert re.fullmatch(r"[\w./-]+@sha256:[0-9a-f]{64}", container["image"])


@pytest.mark.parametrize("variant", ["volume", "bucket"])
def test_fits_and_workers_get_the_data_and_the_credentials(variant):
    documents = {document["metadata"]["name"]: document for document in built(variant)}
    (settings,) = (name for name in documents if documents[name]["kind"] == "ConfigMap")
    assert not {name for name in documents[settings]["data"] if re.search("KEY|SECRET", name)}
    for job in ("dnmf-fit", "dnmf-workers"):
        pod = documents[job]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        sources = [{"configMapRef": {"name": settings}}]
        if variant == "bucket":
            sources += [{"secretRef": {"name": "dnmf-bucket"}}]
        else:
            claim = DOCUMENTS["claim.yaml-PersistentVolumeClaim-0"]["metadata"]["name"]
            data = {"name": "data", "persistentVolumeClaim": {"claimName": claim}}
            assert data in pod["volumes"]
            assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
        assert container["envFrom"] == sources
    words = documents["dnmf-fit"]["spec"]["template"]["spec"]["containers"][0]["command"]
    variables = set(re.findall(r"\$\((\w+)\)", " ".join(words)))
    assert variables <= set(documents[settings]["data"])


@pytest.mark.slow
@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("variant", [*VARIANTS, None])
def test_manifests_are_valid(version, variant):
    from kubernetes_validate import SchemaNotFoundError, ValidationError, validate

    documents = built(variant) if variant else DOCUMENTS.values()
    for document in documents:
        if document["kind"] != "DaskJob":  # of which there is a test of its own
            validate(document, version, strict=True)
    slip = {"apiVersion": "batch/v1", "kind": "Job", "spec": {"backofLimit": 1}}
    with pytest.raises(ValidationError):
        validate(slip, version, strict=True)
    with pytest.raises(SchemaNotFoundError):
        validate({"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskJob"}, version)


@pytest.mark.slow
def test_the_operator_takes_the_dask_job():
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
    job = DOCUMENTS["operator/fit.yaml-DaskJob-0"]
    assert list(validator.iter_errors(job)) == []
    for slip in ({"replicas": "two"}, {"replica": 2}):
        wrong = json.loads(json.dumps(job))
        wrong["spec"]["cluster"]["spec"]["worker"] |= slip
        assert not validator.is_valid(wrong)


def as_worker(folder, dask, address="tcp://127.0.0.1:1", env=None):
    """Start what the worker's container runs, with a program `dask` of ours."""
    (folder / "dask").write_text(f"#!/bin/sh\n{dask}\n")
    (folder / "dask").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    command = [*WORKER["command"], address, *WORKER["args"][1:]]
    return subprocess.Popen(command, env={**os.environ, **(env or {}), "PATH": path})


def test_a_worker_without_a_scheduler_ends(tmp_path):
    log = tmp_path / "log"
    process = as_worker(tmp_path, f'echo "$@" >>{log}; test $(wc -l <{log}) -eq 5')
    assert process.wait(60) == 0, "a job whose pods end well is complete"
    lines = log.read_text().splitlines()
    assert len(lines) == 5 + 20, "the fifth found a scheduler: twenty tries after it"
    assert set(lines) == {" ".join(["worker", "tcp://127.0.0.1:1", *WORKER["args"][1:]])}


REAL = "exec {python} -m distributed.cli.dask_worker $2 --nthreads 1 --host 127.0.0.1"
"""What `dask worker` is here: on the loopback interface, and in the Python of the tests."""

SOON = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s"}


@pytest.mark.slow
def test_a_worker_whose_scheduler_was_stopped_finds_the_next(tmp_path):
    from distributed import Client

    with scheduler(tmp_path, "--dashboard-address", "127.0.0.1:0") as (first, address):
        worker = as_worker(tmp_path, REAL.format(python=sys.executable), address, SOON)
        try:
            with Client(address, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=60)
            first.process.terminate()
            first.process.wait()
            port = address.rpartition(":")[2]
            again = ("--port", port, "--dashboard-address", "127.0.0.1:0")
            with scheduler(tmp_path, *again) as (_, other), Client(other) as client:
                client.wait_for_workers(1, timeout=60)
                assert worker.poll() is None
        finally:
            kill_tree(worker.pid)
            worker.wait()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@contextmanager
def pod_of_the_fit(values, ports):
    """Start what the containers of the fit's pod run, and end all of it as the pod would end."""
    scheduler, fit = containers_of(PODS["base/fit.yaml-Job-1/spec/template/spec"])
    words = [scheduler["command"], [*fit["command"], "--max-iter=120", "--tol=0"]]
    given = {f"$({name})": value for name, value in values.items()} | ports
    for old, new in given.items():
        words = [[word.replace(old, new) for word in command] for command in words]
    side = [word.replace("address=:", "address=127.0.0.1:") for word in words[0][2:]]
    with started("distributed.cli.dask_scheduler", *side, "--host=127.0.0.1"):
        health = f"http://127.0.0.1:{ports['8787']}{scheduler['startupProbe']['httpGet']['path']}"
        wait_until(lambda: answers(health), "a scheduler that says that it is well")
        with started(*words[1]) as process:
            yield process


def answers(url):
    try:
        with urlopen(url) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_a_fit_that_is_evicted_goes_on_in_another_pod(corpus, tmp_path):
    values = {"CORPUS": corpus.path, "MODEL": str(tmp_path / "model"), "COMPONENTS": "6"}
    ports = {"8786": free_port(), "8787": free_port()}
    address = f"tcp://127.0.0.1:{ports['8786']}"
    worker = as_worker(tmp_path, REAL.format(python=sys.executable), address, SOON)
    try:
        with pod_of_the_fit(values, ports) as fit:
            fit.wait_for_pass(3)
            fit.signal(signal.SIGTERM)
            assert fit.end() == 75, "the status that the job of the manifest ignores"
        with pod_of_the_fit(values, ports) as fit:
            assert fit.end() == 0, fit.log
        assert worker.poll() is None
    finally:
        kill_tree(worker.pid)
        worker.wait()
    assert same(dnmf.load(values["MODEL"]), whole(corpus, 120))


LOCK = (FOLDER / "requirements.txt").read_text()


def test_the_locked_libraries_are_those_that_dnmf_needs():
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+) \\$", LOCK, re.M))
    assert len(re.findall(r"^[\w.-]+==.* \\\n    --hash=sha256:", LOCK, re.M)) == len(pinned)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    (extra,) = re.findall(r"--extra (\w+)", LOCK)
    needed += project["project"]["optional-dependencies"][extra]
    for line in needed:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[requirement.name]), line


@pytest.mark.slow
def test_the_linter_of_dockerfiles_finds_nothing():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if not (hadolint := shutil.which("hadolint", path=path)):
        pytest.skip("hadolint is not on this machine")
    done = subprocess.run([hadolint, FOLDER / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_gets_what_it_is_built_from_and_nothing_else():
    first, *allowed = re.findall(r"^[^#\n]+$", (ROOT / ".dockerignore").read_text(), re.M)
    assert first == "*"
    names = {line[1:] for line in allowed if line.startswith("!")}
    assert all((ROOT / name).exists() for name in names)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert names >= {project["project"]["readme"], "pyproject.toml", "dnmf", "LICENSE"}
    copied = re.findall(r"^COPY (?!--from)(\S+)", (FOLDER / "Dockerfile").read_text(), re.M)
    assert set(copied) - {"."} <= names


def test_the_image_runs_as_the_user_of_the_pods():
    image = (FOLDER / "Dockerfile").read_text()
    (user,) = re.findall(r"^USER (\d+):\d+$", image, re.M)
    assert {pod["securityContext"]["runAsUser"] for pod in PODS.values()} == {int(user)}
    assert "ENTRYPOINT" not in image, "Dask's operator gives programs of its own as arguments"
    settings = dict(re.findall(r"(\w+)=(\S+)", re.search("^ENV .*$", image, re.M)[0]))
    for name in ("HOME", "NUMBA_CACHE_DIR"):
        assert Path("/tmp") in [Path(settings[name]), *Path(settings[name]).parents]
