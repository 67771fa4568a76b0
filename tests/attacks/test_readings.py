"""What an upstream reads as denied is denied, in every spelling.

Every recorded interpretation of a real server is tested against each way in which a rule can deny it, on a
listener that sends headers and bodies unchanged and on one that sends them as text. The scenario `readings`
does the same through a real Envoy, with its hardening and without.
"""

from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.attacks.facts import FACTS, FORM, Fact, answer, check_of, policy_with, rules_against
from tests.support.attacks.models import FIELDS, PATHS

LISTENERS = pytest.mark.parametrize("joined", [False, True], ids=["raw", "joined"])
SPELLED_OTHERWISE = {"express4", "express5", "koa"}
"""These servers ignore letter case and a trailing slash in paths, so the policy must ignore them, too."""


@LISTENERS
@pytest.mark.parametrize("fact", FACTS, ids=str)
def test_what_a_recorded_upstream_reads_as_denied_is_denied(fact: Fact, joined: bool) -> None:
    for rule in rules_against(fact):
        found = answer(policy_with(rule, lenient=True), check_of(fact, joined=joined))
        assert found == "closed" or found.startswith("path_"), (rule, found)


@LISTENERS
@pytest.mark.parametrize(
    "fact", [fact for fact in FACTS if not SPELLED_OTHERWISE.issuperset(fact.servers)], ids=str
)
def test_most_upstreams_need_no_setting(fact: Fact, joined: bool) -> None:
    if fact.kind == "path" and fact.sent.endswith("/"):
        return
    for rule in rules_against(fact):
        found = answer(policy_with(rule, lenient=False), check_of(fact, joined=joined))
        assert found == "closed" or found.startswith("path_"), (rule, found)


@pytest.mark.parametrize(
    "fact",
    [
        Fact("path", "/administrator", "/admin", ()),
        Fact("path", "/x/admin", "/admin", ()),
        Fact("path", "/admin", "/admin/:id", ()),
        Fact("query", "roles=admin", "role", ()),
        Fact("query", "role=user", "role", ()),
        Fact("form", "roles=admin", "role", ()),
        Fact("form", "role=user", "role", ()),
        Fact("form", "user[name]=admin&user[role]=user", "user_role", ()),
        Fact("json", '{"roles": "admin"}', "role", ()),
        Fact("json", '{"role": "user"}', "role", ()),
        Fact("header", "x-roles", "x-role", ()),
    ],
    ids=str,
)
def test_what_no_one_reads_as_denied_is_not(fact: Fact) -> None:
    """The rule does not deny everything."""
    for rule in rules_against(fact):
        if "user_role" not in rule and (fact.kind != "json" or " in body" not in rule):
            assert answer(policy_with(rule, lenient=True), check_of(fact, joined=False)) == "open", rule


@pytest.mark.parametrize("server", FIELDS)
def test_a_model_of_fields_reads_what_its_server_was_seen_to_read(server: str) -> None:
    facts = [fact for fact in FACTS if fact.kind == "form" and "." not in fact.means]
    read = [fact for fact in facts if fact.means in set(FIELDS[server](fact.sent))]
    assert {str(fact) for fact in facts if server in fact.servers} <= {str(fact) for fact in read}


@pytest.mark.parametrize("server", PATHS)
def test_a_model_of_paths_reads_what_its_server_was_seen_to_read(server: str) -> None:
    for fact in FACTS:
        dots = "." in fact.sent or "%2e" in fact.sent
        if fact.kind == "path" and fact.means == "/admin" and server in fact.servers and not dots:
            assert PATHS[server](fact.sent).rstrip("\n") == "/admin", fact


AROUND_NAMES = "role Role user x [ ] [] [0] [x] [role] . + _ = & %00 %20 %5B %5d %2e r%6fle %0a ; role=admin"
around_names = st.lists(st.sampled_from(AROUND_NAMES.split()), max_size=4).map("".join)
bodies = st.tuples(
    around_names,
    st.sampled_from(["role", "Role", "ROLE", "r%6fle"]),
    around_names,
    st.just("=admin"),
    st.sampled_from(["", "&x=1", "&role=user", "&role[]=user", ";x", "&role"]),
).map("".join)


@settings(max_examples=400, deadline=None)
@given(bodies)
@example("role[]=admin")
@example("role[role]=x&role[x]=admin")
@example(";role=admin")
def test_no_spelling_of_a_field_gets_around_a_deny_rule(text: str) -> None:
    """Every name that PHP, qs with and without dots, or other servers read as `role`."""
    read = {name for model in FIELDS.values() for name in model(text)}
    if "role" not in read:
        return
    for kind, sent in (("query", text.replace(" ", "%20")), ("form", text)):
        fact = Fact(kind, sent, "role", ())
        for rule in rules_against(fact):
            for joined in (False, True):
                found = answer(policy_with(rule, lenient=False), check_of(fact, joined=joined))
                assert found == "closed", (kind, rule, found)


AROUND_PATHS = "/ // \\ %2f %5C host x ;v=1 # ? ?x=/ %23 %3F . ! @ :80 %20 /admin"
around_paths = st.lists(st.sampled_from(AROUND_PATHS.split()), max_size=4).map("".join)
paths = st.tuples(
    st.just("/"),
    around_paths,
    st.sampled_from(["admin", "/admin", "ADMIN", "/Admin", "%61dmin", "/%2561dmin"]),
    around_paths,
).map("".join)


@settings(max_examples=600, deadline=None)
@given(paths)
@example("//host/admin")
@example("///host/admin")
@example("/ADMIN/")
@example("/\\host%2fx/admin")
@example("/\\host%5Cx/admin")
def test_no_spelling_of_a_path_gets_around_a_deny_rule(raw: str) -> None:
    """Every path that Express, Werkzeug, a WHATWG URL parser, PHP or Starlette read as `/admin`."""
    if not any(model(raw) == "/admin" for model in PATHS.values()):
        return
    fact = Fact("path", raw, "/admin", ())
    for rule in rules_against(fact):
        for joined in (False, True):
            found = answer(policy_with(rule, lenient=True), check_of(fact, joined=joined))
            assert found == "closed" or found.startswith("path_"), (rule, found)


@given(st.text(st.characters(codec="ascii"), max_size=3), st.sampled_from(["role", "Role", "role[]"]))
def test_no_escape_of_a_name_gets_around_a_deny_rule(after: str, name: str) -> None:
    """Every letter escaped, and text after a NUL."""
    sent = "".join(f"%{ord(letter):02x}" for letter in name) + "%00" + quote(after, safe="") + "=admin"
    for kind in ("query", "form"):
        fact = Fact(kind, sent, "role", ())
        for rule in rules_against(fact):
            assert answer(policy_with(rule, lenient=False), check_of(fact, joined=True)) == "closed"


def test_the_content_type_is_a_choice_of_the_client() -> None:
    """A rule about JSON applies to forms, too; other content cannot be known."""
    rule = "when: has(body.role) && body.role == 'admin'"
    for kind, body in (
        (FORM, "role=admin"),
        (FORM, '{"role":"admin","x":"="}'),
        ("application/json", '{"role": "admin"}'),
        ("application/json", '{"role": ["admin"]}'),
        ("text/x", "role"),
    ):
        message = check_of(Fact("form", body, "role", ()), joined=False)
        for line in message.attributes.request.http.header_map.headers:
            if line.key == "content-type":
                line.raw_value = kind.encode()
        assert answer(policy_with(rule, lenient=False), message) == "closed", kind
