#!/usr/bin/env bash
# Grafana's SDK has a version for each Grafana, such as 11.6.0, with an epoch in front (PEP 440) that grows with each
# upload. A release uploads the newest Grafana first, so the highest version is the one for the oldest Grafana, and
# a lower bound without an epoch excludes none: `grafana-foundation-sdk>=11` installs the SDK of Grafana 10.1.
# Needs: python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  packaging==25.0 grafana-foundation-sdk==1769699379!11.6.0
# The upper bound keeps later uploads out.
venv/bin/pip download --quiet --disable-pip-version-check --no-deps --dest chosen \
  'grafana-foundation-sdk>=11,<=1769699998!10.1.0'
cat > see.py <<'PYTHON'
import pathlib
from importlib.metadata import version
from packaging.specifiers import SpecifierSet
from packaging.utils import parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

newest_grafana, oldest_grafana = Version(version("grafana-foundation-sdk")), Version("1769699998!10.1.0")
[file] = [path.name for path in pathlib.Path("chosen").iterdir()]
chosen = (parse_wheel_filename if file.endswith(".whl") else parse_sdist_filename)(file)[1]
print("installed for Grafana 11.6:", newest_grafana)
print("higher, although for Grafana 10.1:", oldest_grafana, oldest_grafana > newest_grafana)
print("'>=11' holds for it:", oldest_grafana in SpecifierSet(">=11"))
print("pip chooses for '>=11':", chosen)
assert oldest_grafana > newest_grafana
assert oldest_grafana in SpecifierSet(">=11")
assert chosen == oldest_grafana, chosen
PYTHON
venv/bin/python see.py
