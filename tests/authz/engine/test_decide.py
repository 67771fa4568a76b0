import asyncio
from collections.abc import Awaitable

import pytest

from authz.engine.decide import Authorizer, Decision, decision_ids
from authz.policy.compile.load import parse_policy
from authz.request.identity import ANONYMOUS, Authentication, CredentialKind, Identity, Refusal, RefusalReason
from tests.support.callers import ALICE, Says
from tests.support.checks import request


def authorizer(policy: str, who: Authentication | Awaitable[Authentication] | Says = None) -> Authorizer:
    authenticator = who if isinstance(who, Says) else Says(who)
    return Authorizer(parse_policy(policy), authenticator, decision_ids(lambda: 0.5))


def decide(
    policy: str,
    who: Authentication = None,
    method: str = "GET",
    path: str = "/",
    host: str = "api.example.com",
) -> Decision:
    decision = authorizer(policy, who).decide(request(method, path, host), 0.0)
    assert isinstance(decision, Decision)
    return decision


def answer(
    policy: str, who: Authentication = None, method: str = "GET", path: str = "/", host: str = "a"
) -> str:
    verdict = decide(policy, who, method, path, host).verdict
    return f"{verdict.status} {verdict.rule or verdict.reason}"


POLICY = """
rules:
  - name: health
    paths: [/healthz]
    allow: anyone
  - name: read users
    methods: [GET, HEAD]
    paths: [/users, "/users/{id}"]
    allow: {scopes: [users.read]}
  - name: write users
    methods: [PUT, DELETE]
    paths: ["/users/{id}"]
    allow: [{scopes: [users.write, users.read]}, {roles: [admin]}]
  - name: files
    hosts: ["*.files.example"]
    paths: ["/{rest=**}"]
    allow: authenticated
  - name: no secrets
    hosts: ["*"]
    paths: ["/{tenant}/secrets/**"]
    deny: anyone
  - name: no robots
    hosts: ["*.files.example"]
    deny: {kinds: [api_key]}
"""
ROBOT = Identity(CredentialKind.API_KEY, "robot")
ADMIN = Identity(CredentialKind.SESSION, "root", roles=frozenset({"admin", "staff"}))


@pytest.mark.parametrize(
    ("who", "method", "host", "path", "expected"),
    [
        (None, "GET", "a", "/healthz", "200 health"),
        (None, "GET", "a", "/healthz/", "403 no_rule"),
        (None, "GET", "a", "/Healthz", "403 no_rule"),
        (None, "GET", "a", "/nothing", "403 no_rule"),
        (ALICE, "GET", "a", "/nothing", "403 no_rule"),
        (None, "GET", "a", "/users/7", "401 read users"),
        (ALICE, "GET", "a", "/users/7", "200 read users"),
        (ALICE, "GET", "a", "/users/7?x=/../..", "200 read users"),
        (ALICE, "GET", "a", "/users/", "403 no_rule"),
        (ALICE, "GET", "a", "/users/7/8", "403 no_rule"),
        (ALICE, "PATCH", "a", "/users/7", "403 no_rule"),
        (ALICE, "PUT", "a", "/users/7", "403 write users"),
        (ADMIN, "PUT", "a", "/users/7", "200 write users"),
        (ADMIN, "GET", "a", "/users/7", "403 read users"),
        (ALICE, "GET", "x.files.example", "/any/thing", "200 files"),
        (ALICE, "GET", "X.FILES.EXAMPLE.:443", "/any/thing", "200 files"),
        (ALICE, "GET", "files.example", "/any/thing", "403 no_rule"),
        (ALICE, "GET", "x.files.example.evil", "/any/thing", "403 no_rule"),
        (ROBOT, "GET", "x.files.example", "/any/thing", "403 no robots"),
        (None, "GET", "x.files.example", "/any/thing", "401 files"),
        (ALICE, "GET", "x.files.example", "/t/secrets/1", "403 no secrets"),
        (None, "GET", "x.files.example", "/t/secrets", "403 no secrets"),
        (ALICE, "GET", "x.files.example", "/t/%73ecrets", "403 no secrets"),
    ],
)
def test_rules_say_who_may_what(
    who: Authentication, method: str, host: str, path: str, expected: str
) -> None:
    assert answer(POLICY, who, method, path, host) == expected


@pytest.mark.parametrize(
    ("who", "admits"),
    [
        ("anyone", True),
        ("authenticated", True),
        ("{scopes: [users.read]}", True),
        ("{scopes: [users.read, users.write]}", False),
        ("{any_scope: [users.read, users.write]}", True),
        ("{any_scope: [users.write]}", False),
        ("{roles: [admin, staff]}", True),
        ("{roles: [admin]}", False),
        ("{all_roles: [admin, staff]}", False),
        ("{all_roles: [staff]}", True),
        ("{subjects: [alice]}", True),
        ("{subjects: [Alice]}", False),
        ("{issuers: ['https://idp.example']}", True),
        ("{issuers: ['https://idp.example/']}", False),
        ("{kinds: [jwt]}", True),
        ("{kinds: [session]}", False),
        ("{subjects: [alice], roles: [admin]}", False),
        ("[{roles: [admin]}, {subjects: [alice]}]", True),
    ],
)
def test_a_description_of_callers_is_true_in_every_key(who: str, admits: bool) -> None:
    verdict = decide(f"rules: [{{name: r, allow: {who}}}]", ALICE).verdict
    assert (verdict.status == 200) is admits


def test_anonymous_is_anonymous_however_empty_the_description() -> None:
    """A rule that names an attribute the request lacks never allows."""
    anonymous = Identity(CredentialKind.ANONYMOUS, "")
    for who in ("authenticated", "{subjects: [x]}", "{kinds: [jwt]}"):
        assert decide(f"rules: [{{name: r, allow: {who}}}]", anonymous).verdict.status != 200


def test_cve_2026_32716_a_prefix_ends_at_a_segment() -> None:
    policy = "rules: [{name: john, paths: ['/john/**'], allow: anyone}]"
    assert answer(policy, path="/john/x") == "200 john"
    assert answer(policy, path="/johnathan") == "403 no_rule"


def test_cve_2021_39155_a_deny_rule_covers_every_spelling_of_its_host() -> None:
    policy = "rules: [{name: all, allow: anyone}, {name: closed, hosts: [Admin.example], deny: anyone}]"
    for host in ("admin.example", "ADMIN.example", "admin.example.", "admin.example:8443"):
        assert answer(policy, host=host) == "403 closed"


def test_a_lax_wildcard_does_not_replace_the_exact_host() -> None:
    """Every pattern that covers the host counts: the case of a host cannot choose a laxer configuration."""
    policy = """
rules:
  - {name: lax, hosts: ["*.acme.com"], allow: anyone}
  - {name: strict, hosts: [api.acme.com], deny: anyone}
"""
    assert answer(policy, host="API.acme.com") == "403 strict"


class TestCredentials:
    def test_an_open_path_is_answered_without_looking_at_credentials(self) -> None:
        """A bad token or an unreachable key server is not a reason to refuse such a request."""
        says = Says(Refusal(RefusalReason.TOKEN_EXPIRED))
        decision = authorizer("rules: [{name: open, allow: anyone}]", says).decide(request(), 0.0)
        assert isinstance(decision, Decision)
        assert (decision.verdict.status, says.times, decision.identity) == (200, 0, ANONYMOUS)

    def test_no_rule_is_answered_without_looking_at_credentials(self) -> None:
        says = Says(ALICE)
        authorizer("rules: []", says).decide(request(), 0.0)
        assert says.times == 0

    def test_a_deny_rule_about_callers_is_asked_before_an_open_rule(self) -> None:
        policy = "rules: [{name: open, allow: anyone}, {name: no robots, deny: {kinds: [api_key]}}]"
        assert answer(policy, ROBOT) == "403 no robots"
        assert answer(policy, ALICE) == "200 open"
        assert answer(policy, None) == "200 open"

    def test_a_bad_credential_is_refused_where_a_deny_rule_might_have_spoken(self) -> None:
        policy = "rules: [{name: open, allow: anyone}, {name: no robots, deny: {kinds: [api_key]}}]"
        assert answer(policy, Refusal(RefusalReason.API_KEY_EXPIRED)) == "401 no robots"

    @pytest.mark.parametrize("reason", RefusalReason)
    def test_no_refusal_ever_allows(self, reason: RefusalReason) -> None:
        verdict = decide("rules: [{name: r, allow: authenticated}]", Refusal(reason)).verdict
        assert (verdict.outcome != "allow", verdict.reason) == (True, reason.value)

    @pytest.mark.parametrize(
        ("reason", "outcome", "status"),
        [
            (RefusalReason.TOKEN_SIGNATURE, "deny", 401),
            (RefusalReason.CREDENTIALS_AMBIGUOUS, "deny", 400),
            (RefusalReason.KEYS_UNAVAILABLE, "error", 503),
            (RefusalReason.SESSION_STORE_UNAVAILABLE, "error", 503),
            (RefusalReason.DEADLINE, "error", 503),
        ],
    )
    def test_an_outage_is_told_apart_from_a_denial(
        self, reason: RefusalReason, outcome: str, status: int
    ) -> None:
        verdict = decide("rules: [{name: r, allow: authenticated}]", Refusal(reason)).verdict
        assert (verdict.outcome, verdict.status) == (outcome, status)

    def test_the_kind_of_a_refused_credential_is_reported(self) -> None:
        refusal = Refusal(RefusalReason.API_KEY_UNKNOWN, kind=CredentialKind.API_KEY)
        assert decide("rules: [{name: r, allow: authenticated}]", refusal).credential == "api_key"


class TestWaiting:
    POLICY = "rules: [{name: r, allow: authenticated}]"

    async def test_a_credential_that_must_be_waited_for_is(self) -> None:
        async def found() -> Authentication:
            await asyncio.sleep(0)
            return ALICE

        pending = authorizer(self.POLICY, found()).decide(request(), 0.0)
        assert not isinstance(pending, Decision)
        assert (await pending).verdict.status == 200

    async def test_authorino_649_no_decision_in_time_is_never_an_allow(self) -> None:
        """A wait that ends with the deadline is an error of its own, and what was waited for is cancelled."""
        waiting: asyncio.Future[Authentication] = asyncio.get_running_loop().create_future()
        deadline = asyncio.get_running_loop().time() + 0.05
        pending = authorizer(self.POLICY, waiting).decide(request(), 0.0, deadline)
        assert not isinstance(pending, Decision)
        verdict = (await pending).verdict
        assert (verdict.outcome, verdict.reason) == ("error", "deadline")
        assert waiting.cancelled()

    async def test_a_deadline_that_has_passed_is_not_waited_for(self) -> None:
        waiting: asyncio.Future[Authentication] = asyncio.get_running_loop().create_future()
        pending = authorizer(self.POLICY, waiting).decide(request(), 0.0, 0.0)
        assert not isinstance(pending, Decision)
        assert (await pending).verdict.reason == "deadline"


class TestOddPaths:
    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("//admin/x", "path_empty_segment"),
            ("/public/../admin", "path_dot_segment"),
            ("/public/%2e%2e/admin", "path_dot_segment"),
            ("/a%2Fb", "path_encoded_slash"),
            ("/a%5Cb", "path_backslash"),
            ("/a\\b", "path_backslash"),
            ("/a%252Fb", "path_double_encoding"),
            ("/a;b", "path_parameters"),
            ("/a#b", "path_fragment"),
            ("/a%0a", "path_control"),
            ("/a%zz", "path_bad_escape"),
            ("/a%00", "path_nul"),
            ("/%c0%ae", "path_not_utf8"),
            ("/é", "path_not_ascii"),
        ],
    )
    def test_they_are_refused_with_their_own_reason(self, path: str, reason: str) -> None:
        """Even where everything is open: what the upstream will read cannot be known."""
        verdict = decide("rules: [{name: open, allow: anyone}]", path=path).verdict
        assert (verdict.status, verdict.reason) == (400, reason)

    def test_a_rule_opts_in_to_what_it_names_and_to_no_more(self) -> None:
        policy = (
            "rules: [{name: r, paths: ['/files/{name}'], allow: anyone, accept_in_path: [encoded_slash]}]"
        )
        assert answer(policy, path="/files/a%2Fb") == "200 r"
        assert answer(policy, path="/files/a%2Fb;c") == "400 path_encoded_slash"
        assert answer(policy, path="/files/a;c") == "400 path_parameters"
        assert answer(policy, path="/other/a%2Fb") == "400 path_encoded_slash"

    def test_a_rule_that_opted_in_lets_no_other_rule_allow(self) -> None:
        policy = """
rules:
  - {name: mine, paths: ["/files/{name}"], allow: {roles: [admin]}, accept_in_path: [parameters]}
  - {name: lax, paths: ["/files/{name}"], allow: authenticated}
"""
        assert answer(policy, ALICE, path="/files/a") == "200 lax"
        assert answer(policy, ALICE, path="/files/a;b") == "403 mine"

    @pytest.mark.parametrize("path", ["/public/..%2fadmin", "/public/x%2f..%2f..%2fadmin"])
    def test_dots_behind_an_escaped_slash_are_refused(self, path: str) -> None:
        policy = """
rules:
  - {name: public, paths: ["/public/**"], allow: anyone, accept_in_path: [encoded_slash]}
  - {name: admin, paths: ["/admin/**"], allow: {roles: [admin]}}
"""
        assert answer(policy, path=path) == "400 path_encoded_slash"

    @pytest.mark.parametrize(
        "piece",
        [
            "..%2Fadmin", "x%2f..%2f..%2fadmin", "x%2F%2e%2e%2F..%2Fadmin", "..%5Cadmin", "..\\admin",
            "%252e%252e", "%252e%252e%252fadmin", "%25252e%25252e%25252fadmin", "..%252fadmin", "a%2500",
            "a%250d%250a", "%25c0%25ae", "%u002e%u002e", "%25u002e", "%U0061dmin", "..#x",
            "..%23x", "..%3Fx", "..%2F..;/admin", "..;%2Fadmin",
        ],
    )  # fmt: skip
    def test_what_no_rule_may_accept_hides_behind_nothing_that_one_accepts(self, piece: str) -> None:
        accepted = "[encoded_slash, backslash, double_encoding, fragment, bad_escape, parameters, not_ascii]"
        policy = f"rules: [{{name: r, paths: ['/files/**'], allow: anyone, accept_in_path: {accepted}}}]"
        assert answer(policy, path=f"/files/{piece}").startswith("400 path_")

    @pytest.mark.parametrize(
        "piece", ["a%2Fb", "a%2F..b", "a%5Cb", "a%252Fb", "100%25", "a;b", "...", "a%2F...%2Fb"]
    )
    def test_what_only_looks_like_it_is_accepted(self, piece: str) -> None:
        policy = (
            "rules: [{name: r, paths: ['/files/{name}'], allow: anyone, "
            "accept_in_path: [encoded_slash, backslash, double_encoding, parameters]}]"
        )
        assert answer(policy, path=f"/files/{piece}") == "200 r"

    @pytest.mark.parametrize("path", ["//admin/x", "/admin//x", "/admin;v=1/x", "/%61dmin/x", "/admin"])
    def test_an_accepted_anomaly_does_not_get_around_a_deny_rule(self, path: str) -> None:
        policy = """
rules:
  - {name: all, allow: anyone, accept_in_path: [empty_segment, parameters]}
  - {name: admin, paths: ["/admin/**"], deny: anyone}
"""
        assert answer(policy, path=path) == "403 admin"


class TestShadow:
    def test_a_shadow_deny_changes_nothing_but_is_reported(self) -> None:
        policy = "rules: [{name: open, allow: anyone}, {name: new, deny: anyone, mode: shadow}]"
        decision = decide(policy)
        assert decision.verdict.rule == "open"
        assert decision.shadow is not None
        assert (decision.shadow.outcome, decision.shadow.rule) == ("deny", "new")

    def test_a_shadow_allow_changes_nothing_but_is_reported(self) -> None:
        decision = decide("rules: [{name: new, allow: anyone, mode: shadow}]")
        assert decision.verdict.reason == "no_rule"
        assert decision.shadow is not None
        assert (decision.shadow.outcome, decision.shadow.rule) == ("allow", "new")

    def test_a_shadow_rule_that_agrees_is_silent(self) -> None:
        policy = "rules: [{name: open, allow: anyone}, {name: new, allow: anyone, mode: shadow}]"
        assert decide(policy).shadow is None

    def test_a_shadow_rule_asks_for_no_credential(self) -> None:
        says = Says(ALICE)
        policy = "rules: [{name: open, allow: anyone}, {name: new, deny: authenticated, mode: shadow}]"
        authorizer(policy, says).decide(request(), 0.0)
        assert says.times == 0


def test_decision_ids_are_unique_and_of_one_length() -> None:
    new_id = decision_ids(lambda: 0.999999)
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(one) for one in ids} == {24}
    assert decision_ids(lambda: 0.1)() != decision_ids(lambda: 0.2)()
