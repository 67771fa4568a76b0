"""What kustomize and Helm build fits Kubernetes, its custom resources, and Envoy."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from tests.support.gotools import go_tool
from tests.support.manifests import (
    CHART,
    KUBERNETES,
    Manifest,
    custom_resources,
    documents,
    go_module,
    is_built_in,
    problems,
)

ENVOY_GATEWAY = "github.com/envoyproxy/gateway@v1.9.1"
ISTIO = "istio.io/api@v1.32.0"
PROMETHEUS = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
CERT_MANAGER = "github.com/cert-manager/cert-manager@v1.21.2"
KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1"
HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
VALUES = {
    "native-sidecar": (),
    "native-sidecar with everything": (
        "serviceMonitor.enabled=true",
        "secretName=sidecars",
        "service.type=ClusterIP",
    ),
    "daemonset": ("mode=daemonset", "secretName=sidecars"),
    "service": ("mode=service", "replicas=3"),
    "service without TLS": ("mode=service", "tlsSecretName="),
    "envoy gateway": ("mode=service", "envoyGateway.enabled=true", "serviceMonitor.enabled=true"),
    "istio": ("mode=service", "istio.enabled=true"),
    "settings": (
        "settings.log.level=debug",
        "podDisruptionBudget.enabled=false",
        "networkPolicy.enabled=false",
    ),
}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="session")
def crds() -> dict[tuple[str, str], Any]:
    gateway = go_module(ENVOY_GATEWAY) / "charts" / "gateway-crds-helm" / "templates"
    certificates = go_module(CERT_MANAGER) / "deploy" / "crds"
    operator = go_module(PROMETHEUS) / "example" / "prometheus-operator-crd"
    files = [
        *(gateway / "generated").glob("*.yaml"),
        gateway / "standard-gatewayapi-crds.yaml",
        go_module(ISTIO) / "kubernetes" / "customresourcedefinitions.gen.yaml",
        *certificates.glob("cert-manager.io_*.yaml"),
        operator / "monitoring.coreos.com_servicemonitors.yaml",
    ]
    found = custom_resources(file.read_text() for file in files)
    assert len(found) > 20
    return found


def all_problems(manifests: list[Manifest], crds: dict[tuple[str, str], Any]) -> list[str]:
    assert manifests
    return [problem for one in manifests for problem in problems(one, crds)]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_references(manifests: list[Manifest]) -> None:
    """Each ConfigMap that a pod mounts is there, and the selectors of Services find a pod."""
    maps = {one["metadata"]["name"] for one in manifests if one["kind"] == "ConfigMap"}
    templates = [one["spec"]["template"] for one in manifests if one["kind"] in {"Deployment", "DaemonSet"}]
    assert len(templates) == 1
    mounted = {v["configMap"]["name"] for t in templates for v in t["spec"]["volumes"] if "configMap" in v}
    assert mounted == maps
    labels = templates[0]["metadata"]["labels"].items()
    for service in (one for one in manifests if one["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kustomize_builds_fits(overlay: str, crds: dict[tuple[str, str], Any]) -> None:
    built = documents(run(go_tool("kustomize", KUSTOMIZE), "build", KUBERNETES / "overlays" / overlay))
    assert all_problems(built, crds) == []
    check_references(built)
    # What belongs to Istio's own namespace stays there.
    named = {
        one["metadata"].get("namespace") for one in built if one["kind"] not in {"Namespace", "GatewayClass"}
    }
    assert named == ({"edge", "istio-system"} if overlay == "istio" else {"edge"})


def test_the_service_monitor_is_added_by_its_component(
    crds: dict[tuple[str, str], Any], tmp_path: Path
) -> None:
    copy = tmp_path / "kubernetes"
    run("cp", "-r", KUBERNETES, copy)
    own = copy / "overlays" / "native-sidecar" / "kustomization.yaml"
    own.write_text(own.read_text() + "components: [../../components/service-monitor]\n")
    built = documents(run(go_tool("kustomize", KUSTOMIZE), "build", own.parent))
    assert all_problems(built, crds) == []
    [monitor] = [one for one in built if one["kind"] == "ServiceMonitor"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert [one for one in built if one["kind"] == "Service" and wanted <= one["metadata"]["labels"].items()]


@pytest.mark.parametrize("name", VALUES)
def test_what_helm_renders_fits(name: str, crds: dict[tuple[str, str], Any]) -> None:
    sets = [argument for value in VALUES[name] for argument in ("--set", value)]
    helm = go_tool("helm", HELM)
    kind = ["--kube-version", "1.31.0", "--namespace", "edge"]
    built = documents(run(helm, "template", "edge", CHART, *kind, *sets))
    assert all_problems(built, crds) == []
    check_references(built)


def test_a_wrong_mode_is_refused() -> None:
    helm = go_tool("helm", HELM)
    done = subprocess.run(
        [helm, "template", "edge", CHART, "--kube-version", "1.31.0", "--set", "mode=pod"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert 'mode: "pod" is not native-sidecar, daemonset or service' in done.stderr


def test_a_key_that_a_custom_resource_does_not_know_is_found(crds: dict[tuple[str, str], Any]) -> None:
    """Shows that the tests above can fail."""
    file = KUBERNETES / "overlays" / "envoy-gateway" / "security-policy.yaml"
    [manifest] = documents(file.read_text())
    assert not is_built_in(manifest)
    assert problems(manifest, crds) == []
    manifest["spec"]["extAuth"]["failopen"] = True
    assert any("failopen" in problem for problem in problems(manifest, crds))


def test_the_mesh_config_is_one_that_istio_reads(tmp_path: Path) -> None:
    """Istio has no JSON schema for it, so its own protobuf definition reads it; unknown keys are errors."""
    module = go_module(ISTIO)
    out = tmp_path / "mesh.bin"
    includes = [f"-I{module}", f"-I{module / 'common-protos'}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes, "--include_imports"]
    run(*command, f"--descriptor_set_out={out}", "mesh/v1alpha1/config.proto")
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        pool.Add(file)
    config = message_factory.GetMessageClass(pool.FindMessageTypeByName("istio.mesh.v1alpha1.MeshConfig"))()
    values = yaml.safe_load((KUBERNETES / "overlays" / "istio" / "mesh-config.yaml").read_text())
    json_format.ParseDict(values, config, descriptor_pool=pool)
    policies = documents((KUBERNETES / "overlays" / "istio" / "policies.yaml").read_text())
    wanted = {
        policies[0]["spec"]["provider"]["name"],
        policies[1]["spec"]["accessLogging"][0]["providers"][0]["name"],
    }
    assert {one["name"] for one in values["extensionProviders"]} == wanted
