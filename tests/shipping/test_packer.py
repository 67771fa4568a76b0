"""deploy/machine/edge.pkr.hcl is HCL in its usual form, by the parser that Packer uses.

Packer and its plugin for Amazon are not Go modules that can be had, so no test runs `packer validate`.
"""

import subprocess
from pathlib import Path

import pytest

from tests.support.gotools import go_tool
from tests.support.manifests import ROOT

HCLFMT = "github.com/hashicorp/hcl/v2/cmd/hclfmt@v2.24.0"
TEMPLATE = ROOT / "deploy" / "machine" / "edge.pkr.hcl"

pytestmark = pytest.mark.timeout(400)


def formatted(file: Path) -> subprocess.CompletedProcess[str]:
    """Return what hclfmt says, which fails for a file that it cannot parse or would format differently."""
    command = [go_tool("hclfmt", HCLFMT), "-check", "-require-no-change", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_template_is_hcl_in_its_usual_form() -> None:
    done = formatted(TEMPLATE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('sources = ["source.amazon-ebs.edge"]', 'sources = ["source.amazon-ebs.edge"'),
        ('default = "amd64"', 'default = "${amd64"'),
        ("  type        = string", " type = string"),
    ],
)
def test_a_template_that_is_not_is_refused(right: str, wrong: str, tmp_path: Path) -> None:
    """Shows that the test above can fail."""
    text = TEMPLATE.read_text(encoding="utf-8")
    assert right in text
    file = tmp_path / "edge.pkr.hcl"
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    assert formatted(file).returncode != 0
