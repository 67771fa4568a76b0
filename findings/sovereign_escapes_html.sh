#!/usr/bin/env bash
# Sovereign, a control plane for Envoy, renders its Jinja templates as HTML: in a route from {{ path }} an ampersand
# becomes &amp; and a quotation mark &#34;. The YAML stays valid and Envoy accepts it, so the route silently matches
# other requests than those it names. Python templates, and the filter tojson, keep the value.
# Needs: python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check sovereign==0.32.12
cat > routes.yaml <<'JINJA'
resources:
  - name: edge
    virtual_hosts:
      - name: all
        domains: ["*"]
        routes:
          - {match: {path: "{{ path }}"}, route: {cluster: plain}}
          - {match: {path: {{ path | tojson }}}, route: {cluster: json}}
JINJA
cat > routes.py <<'PYTHON'
def call(path, **_):
    return [{"name": "edge", "path": path}]
PYTHON
cat > sovereign.yaml <<'YAML'
templates:
  default:
    - {type: routes, spec: {protocol: file, serialization: jinja, path: routes.yaml}}
    - {type: python, spec: {protocol: python, path: routes.py}}
template_context:
  context:
    path: {protocol: inline, serialization: string, path: /research&development}
YAML
cat > see.py <<'PYTHON'
from sovereign import XDS_TEMPLATES
from sovereign.discovery import deserialize_config

PATH = "/research&development"
templates = XDS_TEMPLATES["default"]
[host] = deserialize_config(templates["routes"](path=PATH))["resources"][0]["virtual_hosts"]
plain, as_json = (route["match"]["path"] for route in host["routes"])
in_python = templates["python"](path=PATH)["resources"][0]["path"]
print("{{ path }}:           ", plain)
print("{{ path | tojson }}:  ", as_json)
print("a Python template:    ", in_python)
assert plain == "/research&amp;development", plain
assert as_json == in_python == PATH
PYTHON
SOVEREIGN_CONFIG="file://$folder/sovereign.yaml" venv/bin/python see.py
