"""The manifests in deploy/kubernetes fit Kubernetes, and what is in their ConfigMaps works."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from release.dependencies import PROJECT
from sidecars.cli.app import app
from sidecars.demo.envoy import find_envoy, scripts_folder
from sidecars.process.lifecycle import drain_at_most_seconds
from sidecars.settings.process import DrainSettings
from tests.support.envoy_config import check_configuration
from tests.support.manifests import (
    CHART,
    KUBERNETES,
    ROOT,
    VERSIONS,
    Manifest,
    documents,
    is_built_in,
    problems,
)

OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
CONFIGURATION = {
    "kustomization.yaml",
    "sidecars.yaml",
    "envoy.yaml",
    "policy.yaml",
    "limits.yaml",
    "mesh-config.yaml",
}
FILES = sorted(file for file in KUBERNETES.rglob("*.yaml") if file.name not in CONFIGURATION)
SETTINGS = [*sorted(KUBERNETES.rglob("sidecars.yaml")), *sorted((CHART / "files").glob("[!e]*.yaml"))]
BASE = KUBERNETES / "base"


def pods() -> list[tuple[str, Any]]:
    """Return the name and the spec of each pod template."""
    found = [
        (f"{file.parent.name}/{one['kind']}", one["spec"]["template"]["spec"])
        for file in FILES
        for one in documents(file.read_text())
        if one["kind"] in {"Deployment", "DaemonSet"}
    ]
    assert len(found) == 3
    return found


PODS = pods()


def containers(pod: Any) -> list[Any]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def settings_of_this_machine(file: Path, folder: Path) -> Path:
    """Copy a settings file with its mounted files, so that they are found here."""
    text = file.read_text()
    for name, source in {"policy/policy.yaml": "policy.yaml", "limits/limits.yaml": "limits.yaml"}.items():
        text = text.replace(f"/etc/sidecars/{name}", str(BASE / source))
    copy = folder / "sidecars.yaml"
    copy.write_text(text.replace("/run/sidecars", str(folder)))
    return copy


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(KUBERNETES)))
def test_a_manifest_fits_the_oldest_and_the_newest_kubernetes(file: Path) -> None:
    manifests = documents(file.read_text())
    assert manifests
    assert [problem for one in manifests for problem in problems(one)] == []


def test_a_key_that_kubernetes_does_not_know_is_found() -> None:
    """Shows that the test above can fail."""
    manifest: Manifest = yaml.safe_load((KUBERNETES / "overlays/service/deployment.yaml").read_text())
    assert is_built_in(manifest)
    manifest["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    assert any("livenesProbe" in problem for problem in problems(manifest))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_lists_each_of_its_files(overlay: str) -> None:
    folder = KUBERNETES / "overlays" / overlay
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    listed = {*kustomization["resources"]}
    for generator in kustomization.get("configMapGenerator", ()):
        listed |= set(generator["files"])
        assert kustomization["generatorOptions"] == {"disableNameSuffixHash": True}
    files = {file.name for file in folder.iterdir()} - {"kustomization.yaml", "mesh-config.yaml"}
    assert files == {name for name in listed if not name.startswith("..")}


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_settings_pass_the_check(file: Path, tmp_path: Path) -> None:
    copy = settings_of_this_machine(file, tmp_path)
    checked = CliRunner().invoke(app, ["config", "check", "--offline", str(copy)])
    assert checked.exit_code == 0, checked.output
    assert "ok (authz, ratelimit, accesslog)" in checked.output.replace("\n", " ")


@pytest.mark.parametrize(("name", "pod"), PODS, ids=[name for name, _ in PODS])
def test_a_pod_runs_with_the_least_rights_and_is_probed(name: str, pod: Any) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["terminationGracePeriodSeconds"] > drain_at_most_seconds(DrainSettings()) + 2
    for one in containers(pod):
        security = one["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"]["drop"] == ["ALL"]
        assert "memory" in one["resources"]["limits"]
        assert all("subPath" not in mount for mount in one.get("volumeMounts", ()))
        if one["name"] == "sidecars":
            assert one["readinessProbe"]["httpGet"]["path"] == "/readyz"
            assert one["livenessProbe"]["httpGet"]["path"] == "/healthz"
            assert "cpu" not in one["resources"]["limits"]
    assert name != "daemonset" or pod["initContainers"][0]["securityContext"]["capabilities"]["add"] == [
        "CHOWN"
    ]


def test_the_native_sidecar_outlives_envoy() -> None:
    pod = dict(PODS)["native-sidecar/Deployment"]
    [sidecars], [envoy] = pod["initContainers"], pod["containers"]
    assert sidecars["restartPolicy"] == "Always"
    pause = envoy["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause + drain_at_most_seconds(DrainSettings())


def test_every_settings_file_and_volume_of_a_pod_is_mounted() -> None:
    for name, pod in PODS:
        names = {volume["name"] for volume in pod["volumes"]}
        mounted = {mount["name"] for one in containers(pod) for mount in one.get("volumeMounts", ())}
        assert names == mounted, name


def test_the_manifests_and_the_chart_have_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    base = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    [image] = base["images"]
    assert {chart["version"], chart["appVersion"], image["newTag"]} == {PROJECT["version"]}


def for_a_pod(text: str) -> str:
    """Return envoy-test/envoy.yaml as the manifests have it."""
    start, tcp, clusters = (
        text.index("node:"),
        text.index("    - name: edge-tcp\n"),
        text.index("  clusters:\n"),
    )
    loopback = "      # A real edge listens on 0.0.0.0; this example listens on loopback only.\n"
    address = "address: {socket_address: {address: 127.0.0.1, port_value: 10000}}"
    return (
        "# envoy-test/envoy.yaml for a pod: it listens on every address, and finds the sidecars in "
        "/run/sidecars.\n"
        + (text[start:tcp].rstrip() + "\n\n" + text[clusters:])
        .replace("/tmp/edge-sidecars-", "/run/sidecars/")
        .replace(f"{loopback}      {address}", f"      {address.replace('127.0.0.1', '0.0.0.0')}")
        .replace("    - name: upstream\n", "    - name: upstream\n      type: STRICT_DNS\n")
        .replace("127.0.0.1, port_value: 8080", "upstream.default.svc.cluster.local, port_value: 8080")
    )


def test_envoy_has_the_configuration_of_the_examples() -> None:
    wanted = for_a_pod((ROOT / "envoy-test" / "envoy.yaml").read_text())
    assert (KUBERNETES / "overlays" / "native-sidecar" / "envoy.yaml").read_text() == wanted
    assert (CHART / "files" / "envoy.yaml").read_text() == wanted


def test_the_chart_has_the_settings_of_the_overlays() -> None:
    overlays, files = KUBERNETES / "overlays", CHART / "files"
    for ours, overlay in (
        ("native-sidecar", "native-sidecar"),
        ("daemonset", "daemonset"),
        ("service-tls", "service"),
        ("service", "istio"),
    ):
        assert (files / f"{ours}.yaml").read_text() == (overlays / overlay / "sidecars.yaml").read_text()


@pytest.mark.envoy
async def test_envoy_accepts_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text((KUBERNETES / "overlays/native-sidecar/envoy.yaml").read_text())
    assert await check_configuration(find_envoy(os.environ, scripts_folder()), file) == ""


def test_the_page_names_the_oldest_kubernetes() -> None:
    oldest = VERSIONS[0].rpartition(".")[0]
    assert f"Kubernetes {oldest}" in (ROOT / "docs" / "kubernetes.md").read_text()
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == f">={VERSIONS[0]}-0"
