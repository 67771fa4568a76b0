"""Files with rules for the access log of single routes."""

import re
import sys
from pathlib import Path

import pytest

from accesslog.records.route_rules import ALWAYS_KEPT
from common.configfile import ConfigError
from edge.build.build import build
from edge.intent.estate import load_estate
from sidecars.settings.route_rules import LoadedRouteRules, load_route_rules
from tests.edge.estates import EXAMPLE, TODAY

KEY = b"k" * 16


def load(folder: Path, *texts: str, key: bytes = KEY) -> LoadedRouteRules:
    files = [folder / f"{number}.yaml" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")
    return load_route_rules(files, key)


def problems(folder: Path, *texts: str, key: bytes = KEY) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load(folder, *texts, key=key)
    return [str(problem).replace(f"{folder}/", "") for problem in refused.value.problems]


def test_what_is_built_can_be_loaded(tmp_path: Path) -> None:
    built = build(load_estate(EXAMPLE, TODAY))
    loaded = load(tmp_path, built.files["accesslog.json"].decode())
    assert loaded.revision == built.revision
    assert loaded.samples["checkout.orders-write"] == 0.5
    assert [rule.headers or rule.query_parameters for rule in loaded.redact] == [
        ("x-card-number",),
        ("email",),
    ]
    assert loaded.routes is not None
    record = {"route": "accounts.profile", "method": "GET", "cluster": "c", "query": "a=1"}
    loaded.routes.apply(record)
    assert record == {"route": "accounts.profile", "method": "GET"}


def test_without_files_there_are_none(tmp_path: Path) -> None:
    assert load(tmp_path) == LoadedRouteRules()
    assert load(tmp_path, "routes: {a: {sample: 0.5}}").routes is None


def test_every_problem_of_every_file_is_reported_with_its_line(tmp_path: Path) -> None:
    hashed = "routes:\n  a:\n    redact: [{action: hash, headers: [x]}]\n"
    found = problems(tmp_path, "routes: {a: {sample: 2, fields: [nothing]}}", hashed, key=b"")
    assert [one.partition(" ")[0] for one in found] == [
        "0.yaml:1:",
        "0.yaml:1:",
        "1.yaml:3:",
    ]
    assert "routes.a.fields[0]: 'nothing' is not a field of the access log" in found[0]
    assert "routes.a.sample: " in found[1]
    assert "routes.a.redact: a rule hashes, which needs a key of at least 16 bytes" in found[2]


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml"):
        load_route_rules([tmp_path / "gone.yaml"], KEY)


def test_the_file_of_the_page_can_be_loaded(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "accesslog.md").read_text(encoding="utf-8")
    [text] = re.findall(r"```json\n(.*?)```", page.partition("## Rules of single routes")[2], re.DOTALL)
    assert load(tmp_path, text).samples == {"checkout.orders": 0.5}


def test_the_page_names_the_fields_that_a_record_always_has() -> None:
    page = (Path(__file__).parents[3] / "docs" / "accesslog.md").read_text(encoding="utf-8")
    sentence = page.partition("A record always keeps ")[2].partition(".\n")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) == ALWAYS_KEPT


def test_loading_takes_a_break_at_every_route_in_each_of_its_stages(tmp_path: Path) -> None:
    routes = "".join(f"  r{number}: {{sample: 0.5, fields: [path]}}\n" for number in range(50))
    (tmp_path / "rules.yaml").write_text(f"routes:\n{routes}")
    asked: list[str] = []
    loaded = load_route_rules(
        [tmp_path / "rules.yaml"], KEY, lambda: asked.append(sys._getframe(1).f_code.co_qualname)
    )
    assert len(loaded.samples) == 50
    assert {stage for stage in set(asked) if asked.count(stage) >= 50} == {
        "_follow",
        "OneRouteRules._breathe",
        "_load",
        "Document.let_go",
    }
