"""Every file of cluster/ against its real schema, and what the schemas do not say.

Kubernetes' own objects have no schema here, but KubeRay's definitions contain those of their parts: a pod
template, a service, a volume claim.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from mipnet.data.stream import DATA_NODE_LABEL

CLUSTER = Path(__file__).parents[2] / "cluster"
RAY_UP = ("aws", "gcp")
KUBERNETES = ("kuberay/base", "kuberay/raycluster", "kuberay/rayjob", "mlflow/kubernetes")

Object = dict[str, Any]


def read(name: str) -> list[Object]:
    return list(yaml.safe_load_all((CLUSTER / f"{name}.yaml").read_text()))


def objects() -> Iterator[Object]:
    for name in KUBERNETES:
        yield from read(name)


def strict(schema: Any) -> Any:
    """A structural schema of Kubernetes as a JSON schema that refuses unknown fields, as kubectl does."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {k: strict(v) for k, v in schema.items() if k != "properties"}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    if "properties" in schema:
        made["properties"] = {k: strict(v) for k, v in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    return made


def definition(shared: Path, plural: str) -> Object:
    """The version v1 of one of KubeRay's custom resources; metadata is the API server's to check."""
    text = (shared / "schemas" / f"ray.io_{plural}.yaml").read_text()
    versions = yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]  # a megabyte: slow in plain Python
    schema = next(v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1")
    made = strict(schema)
    made["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return made


@pytest.fixture(scope="session")
def raycluster(shared: Path) -> Object:
    return definition(shared, "rayclusters")


@pytest.fixture(scope="session")
def rayjob(shared: Path) -> Object:
    return definition(shared, "rayjobs")


def check(schema: Object, content: Any) -> None:
    jsonschema.Draft7Validator(schema).validate(content)


@pytest.mark.shared
def test_the_ray_cluster_is_one(raycluster):
    (cluster,) = read("kuberay/raycluster")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    check(raycluster, cluster)

    for spoil in (
        lambda spec: spec.update(rayVerison="2.60.0"),
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].update(imgae="x"),
        lambda spec: spec["workerGroupSpecs"][0].update(minReplicas="one"),
        lambda spec: spec["authOptions"].update(mode="password"),
    ):
        spoilt = copy.deepcopy(cluster)
        spoil(spoilt["spec"])
        with pytest.raises(jsonschema.ValidationError):
            check(raycluster, spoilt)


@pytest.mark.shared
def test_the_ray_job_is_one(rayjob):
    (job,) = read("kuberay/rayjob")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    check(rayjob, job)


def test_the_job_brings_the_same_cluster():
    (cluster,), (job,) = read("kuberay/raycluster"), read("kuberay/rayjob")
    wanted = {k: v for k, v in cluster["spec"].items() if k != "gcsFaultToleranceOptions"}
    assert job["spec"]["rayClusterSpec"] == wanted


@pytest.mark.shared
def test_kubernetes_objects_are_made_of_valid_parts(raycluster):
    head = raycluster["properties"]["spec"]["properties"]["headGroupSpec"]["properties"]
    pod_spec = head["template"]["properties"]["spec"]
    claim = pod_spec["properties"]["volumes"]["items"]["properties"]["ephemeral"]["properties"]
    claim_spec = claim["volumeClaimTemplate"]["properties"]["spec"]
    workload = {"replicas", "selector", "template"}
    fields = {
        "ServiceAccount": ("v1", set()),
        "Service": ("v1", {"spec"}),
        "Deployment": ("apps/v1", workload | {"strategy"}),
        "StatefulSet": ("apps/v1", workload | {"serviceName", "volumeClaimTemplates"}),
        "RayCluster": ("ray.io/v1", None),
        "RayJob": ("ray.io/v1", None),
    }
    for item in objects():
        version, allowed = fields[item["kind"]]
        assert item["apiVersion"] == version
        if allowed is None:
            continue
        assert item.keys() <= {"apiVersion", "kind", "metadata", "spec"}
        if item["kind"] == "Service":
            check(head["headService"]["properties"]["spec"], item["spec"])
        elif item["kind"] != "ServiceAccount":
            spec = item["spec"]
            assert spec.keys() <= allowed
            assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
            check(pod_spec, spec["template"]["spec"])
            for template in spec.get("volumeClaimTemplates", []):
                check(claim_spec, template["spec"])


def pods(item: Any) -> Iterator[Object]:
    """All pod specifications below an object."""
    if isinstance(item, dict):
        if "containers" in item:
            yield item
        for value in item.values():
            yield from pods(value)
    elif isinstance(item, list):
        for value in item:
            yield from pods(value)


def test_no_pod_runs_as_root_or_can_become_it():
    found = [pod for item in objects() for pod in pods(item)]
    assert len(found) == 3 + 3 + 1 + 1 + 2  # cluster, job and its submitter, Redis, MLflow and its database
    for pod in found:
        settings = pod["securityContext"]
        assert settings["runAsNonRoot"] is True
        assert settings["runAsUser"] > 0
        assert settings["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]


def test_names_in_the_manifests_lead_somewhere():
    items = list(objects())
    services = {
        f"{i['metadata']['name']}:{port['port']}"
        for i in items
        if i["kind"] == "Service"
        for port in i["spec"]["ports"]
    }
    (cluster,) = read("kuberay/raycluster")
    assert cluster["spec"]["gcsFaultToleranceOptions"]["redisAddress"] in services
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    uri = next(e["value"] for e in head["env"] if e["name"] == "MLFLOW_TRACKING_URI")
    assert uri.removeprefix("http://") in services
    accounts = {i["metadata"]["name"] for i in items if i["kind"] == "ServiceAccount"}
    assert {
        pod["serviceAccountName"] for i in items for pod in pods(i) if "serviceAccountName" in pod
    } == accounts
    labels = [
        i["spec"]["template"]["metadata"]["labels"]
        for i in items
        if i["kind"] in ("Deployment", "StatefulSet")
    ]
    assert all(i["spec"]["selector"] in labels for i in items if i["kind"] == "Service")


def check_division(types: dict[str, Object], head: str) -> None:
    """The division that the training stream relies on: data nodes are labelled and have no GPU."""
    assert types[head]["resources"]["CPU"] == 0
    data = [t for t in types.values() if DATA_NODE_LABEL.items() <= t["labels"].items()]
    assert data
    for node_type in data:
        assert node_type["min_workers"] >= 1  # the stream is bound to them only if one is there
        assert not node_type["resources"].get("GPU")
    assert types["train"]["labels"] == types["train"]["labels"] | {"mipnet.io/role": "train"}


def test_rays_autoscaler_understands_the_ray_cluster():
    (cluster,) = read("kuberay/raycluster")
    cluster["metadata"]["namespace"] = "default"
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(config)
    types = config["available_node_types"]
    check_division(types, config["head_node_type"])
    assert (types["data"]["resources"]["CPU"], types["train"]["resources"]["GPU"]) == (14, 1)


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_files_are_what_ray_up_takes(name):
    (config,) = read(name)
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    types = prepared["available_node_types"]
    check_division(types, prepared["head_node_type"])
    markets = {kind: t["labels"]["ray.io/market-type"] for kind, t in types.items()}
    assert markets == {"head": "on-demand", "data": "spot", "train": "spot"}
    for kind, node_type in types.items():
        machine = node_type["node_config"]
        spot = (
            "InstanceMarketOptions" in machine
            or machine.get("scheduling", {}).get("provisioningModel") == "SPOT"
        )
        assert spot == (markets[kind] == "spot")
    assert sum(t.get("max_workers", 0) for t in types.values()) <= prepared["max_workers"]

    for spoilt in ({**prepared, "head_node_typ": "head"}, {**prepared, "max_workers": 1}):
        with pytest.raises((jsonschema.ValidationError, ValueError)):
            validate_config(spoilt)


def test_spot_machines_and_pods_tell_ray_before_they_go():
    dockerfile = (CLUSTER / "image" / "Dockerfile").read_text()
    assert "COPY cluster/spot_notice.py /usr/local/bin/spot_notice.py\n" in dockerfile
    assert (CLUSTER / "spot_notice.py").exists()
    for cloud in RAY_UP:
        (config,) = read(cloud)
        *_, start, watch = config["worker_start_ray_commands"]
        assert start.startswith("ray start ")
        assert watch.startswith(f"nohup python /usr/local/bin/spot_notice.py {cloud} ")
        assert watch.endswith("&")
    (cluster,) = read("kuberay/raycluster")
    for group in cluster["spec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        *_, said = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        found = re.fullmatch(r"python /usr/local/bin/spot_notice\.py now --seconds (\d+); sleep (\d+)", said)
        seconds, pause = map(int, found.groups())
        assert seconds < pause < pod["terminationGracePeriodSeconds"]


@pytest.mark.shared
def test_the_compose_file_is_one(shared):
    schema = json.loads((shared / "schemas" / "compose-spec.json").read_text())
    (compose,) = read("mlflow/compose")
    validator = jsonschema.Draft7Validator(schema)  # its $schema lacks the # by which it would be found
    validator.validate(compose)
    assert not validator.is_valid({**compose, "services": {"mlflow": {"imgae": "x"}}})
    for service in compose["services"].values():
        named = {v.partition(":")[0] for v in service.get("volumes", []) if v[0] not in "./"}
        assert named <= compose["volumes"].keys()
        assert set(service.get("depends_on", [])) <= compose["services"].keys()
    build = compose["services"]["mlflow"]["build"]
    assert (
        CLUSTER / "mlflow" / build["context"] / build["dockerfile"]
    ).resolve() == CLUSTER / "mlflow/Dockerfile"


def test_secrets_are_named_but_never_written_down():
    text = "".join(path.read_text() for path in CLUSTER.rglob("*.yaml"))
    assert "kind: Secret" not in text
    for item in objects():
        for pod in pods(item):
            for container in pod["containers"]:
                for variable in container.get("env", []):
                    assert "PASSWORD" not in variable["name"] or "valueFrom" in variable
