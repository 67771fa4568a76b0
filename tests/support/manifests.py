"""Kubernetes manifests, and what they must fit: the schemas of Kubernetes, and those of custom resources."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
CHART = ROOT / "deploy" / "helm" / "edge-sidecars"
VERSIONS = ("1.30.0", "1.37.0")
"""The oldest Kubernetes that the manifests need (preStop: sleep), and the newest whose schemas are there."""

BUILT_IN = re.compile(r"v1|(?:apps|batch|policy)/v1|[a-z.]+\.k8s\.io/v1")
GATEWAY_API = "gateway.networking.k8s.io/"

Manifest = Mapping[str, Any]


def is_built_in(manifest: Manifest) -> bool:
    """Whether Kubernetes itself has this kind."""
    version = manifest["apiVersion"]
    return BUILT_IN.fullmatch(version) is not None and not version.startswith(GATEWAY_API)


def documents(text: str) -> list[Manifest]:
    """Return the manifests in `text`."""
    return [one for one in yaml.safe_load_all(text) if one]


def problems(manifest: Manifest, crds: Mapping[tuple[str, str], Any] | None = None) -> list[str]:
    """Return what is wrong with a manifest, in each version of Kubernetes. Unknown keys are wrong."""
    if is_built_in(manifest):
        return list(_built_in_problems(manifest))
    if crds is None:
        return []
    key = (manifest["apiVersion"], manifest["kind"])
    if key not in crds:
        return [f"{key}: no such custom resource"]
    validator = jsonschema.Draft202012Validator(crds[key])
    return [f"{key}: {error.json_path}: {error.message}" for error in validator.iter_errors(dict(manifest))]


def _built_in_problems(manifest: Manifest) -> Iterator[str]:
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{manifest['kind']} in {version}: {list(error.path)}: {error.message}"


def custom_resources(texts: Iterable[str]) -> dict[tuple[str, str], Any]:
    """Return the schemas of the CRDs in `texts`, by apiVersion and kind. Unknown keys do not fit."""
    found: dict[tuple[str, str], Any] = {}
    for text in texts:
        # Charts wrap the CRD in conditions of Go templates.
        plain = "\n".join(line for line in text.splitlines() if not line.startswith("{{"))
        for crd in documents(plain):
            if crd["kind"] != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            for version in spec["versions"]:
                schema = version["schema"]["openAPIV3Schema"]
                schema["properties"] |= {
                    "apiVersion": {},
                    "kind": {},
                    "metadata": {"type": "object", "required": ["name"]},
                }
                found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = _strict(schema)
    return found


def _strict(schema: Any) -> Any:
    """Return a JSON Schema that admits only the keys that an OpenAPI schema names."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    strict = {key: _strict(value) for key, value in schema.items() if key not in {"format", "default"}}
    if (
        isinstance(schema.get("properties"), dict)
        and schema.get("type") == "object"
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        strict["additionalProperties"] = False
    if schema.get("nullable") and "type" in strict:
        strict["type"] = [strict["type"], "null"]
    return strict


def go_module(module: str) -> Path:
    """Return the folder of a Go module, from Go's cache or the module proxy; skip the test without one."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("the custom resources come from Go modules: install go (Debian: apt install golang-go)")
    done = subprocess.run(
        [go, "mod", "download", "-json", module],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    told = json.loads(done.stdout or "{}")
    if done.returncode or "Dir" not in told:
        pytest.skip(f"the Go module {module} cannot be had: {told.get('Error', done.stderr)}")
    return Path(told["Dir"])
