"""The kustomize base: valid by the published schemas, confined, and it fits together."""

from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.running import ROOT
from tokenswarm import __version__
from tokenswarm.scenario.load import load, resolve

Json = dict[str, Any]

BASE = ROOT / "kubernetes" / "base"
KUSTOMIZATION = yaml.safe_load((BASE / "kustomization.yaml").read_text())
OBJECTS: list[Json] = [
    o for name in KUSTOMIZATION["resources"] for o in yaml.safe_load_all((BASE / name).read_text())
]
WORKLOADS = [o for o in OBJECTS if o["kind"] in ("Deployment", "DaemonSet")]
VERSIONS = ("1.28", "1.32", "1.37")


def name(o: Json) -> str:
    return f"{o['kind']}-{o['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("o", OBJECTS, ids=name)
def test_a_manifest_is_valid_in_all_its_words(o: Json, version: str) -> None:
    kubernetes_validate.validate(o, version, strict=True)


def test_a_word_that_kubernetes_does_not_know_is_found() -> None:
    wrong = {**OBJECTS[0], "sepc": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("o", WORKLOADS, ids=name)
def test_pods_are_confined_and_bounded(o: Json) -> None:
    pod = o["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        confined = container["securityContext"]
        assert confined["readOnlyRootFilesystem"] is True
        assert confined["allowPrivilegeEscalation"] is False
        assert confined["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert container["readinessProbe"]


@pytest.mark.parametrize("o", WORKLOADS, ids=name)
def test_what_a_pod_mounts_is_there(o: Json) -> None:
    claims = {c["metadata"]["name"] for c in OBJECTS if c["kind"] == "PersistentVolumeClaim"}
    maps = {m["name"] for m in KUSTOMIZATION["configMapGenerator"]}
    pod = o["spec"]["template"]["spec"]
    volumes = {v["name"]: v for v in pod["volumes"]}
    for container in pod["containers"]:
        assert {m["name"] for m in container["volumeMounts"]} == set(volumes)
    for volume in volumes.values():
        assert volume.get("persistentVolumeClaim", {}).get("claimName", "runs") in claims
        assert volume.get("configMap", {}).get("name", "scenario") in maps
        assert volume.get("secret", {}).get("secretName", "tokenswarm") == "tokenswarm"


def test_selectors_and_services_find_their_pods() -> None:
    labels = [o["spec"]["template"]["metadata"]["labels"] for o in WORKLOADS]
    for o in WORKLOADS:
        wanted = o["spec"]["selector"]["matchLabels"]
        assert wanted == o["spec"]["template"]["metadata"]["labels"]
    for service in (o for o in OBJECTS if o["kind"] == "Service"):
        assert service["spec"]["selector"] in labels
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"


def test_images_are_pinned_to_this_version() -> None:
    pinned = {i["name"]: i["newTag"] for i in KUSTOMIZATION["images"]}
    used = {c["image"] for o in WORKLOADS for c in o["spec"]["template"]["spec"]["containers"]}
    assert used == set(pinned)
    assert set(pinned.values()) == {__version__}


def test_the_master_listens_where_workers_and_page_look() -> None:
    (master,) = [o for o in WORKLOADS if o["metadata"]["name"] == "master"]
    (worker,) = [o for o in WORKLOADS if o["metadata"]["name"] == "worker"]
    assert master["spec"]["replicas"] == 1
    assert "--master-host=master" in worker["spec"]["template"]["spec"]["containers"][0]["args"]


def test_its_scenario_is_one() -> None:
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    path = BASE / generated["files"][0]
    assert resolve(load(path), BASE).telemetry.agents == ["gpu-agent:7070"]
