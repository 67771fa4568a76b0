"""A team claims what it owns and no one else has: hosts and paths, in every spelling."""

import pytest

from common.configfile import ConfigError
from edge.intent.estate import EstateReader
from tests.edge.estates import ANYONE, PLATFORM, ROUTE, TODAY, accepted, problems, route, service, shared


class TestOwnership:
    @pytest.mark.parametrize(
        "host",
        ["one.example", "ONE.example", "One.Example.", "*.two.example", "a.b.two.example", "*.a.two.example"],
    )
    def test_a_team_claims_its_own_hosts_in_any_spelling(self, host: str) -> None:
        owner = "two" if "two" in host else "one"
        assert accepted(service(owner=owner, hosts=f"'{host}'"))

    @pytest.mark.parametrize(
        ("host", "why"),
        [
            ("two.example", "it owns one.example, shared.example/one/{rest=**} (platform.yaml:8)"),
            ("a.two.example", "it belongs to the team two (platform.yaml:9)"),
            ("*.two.example", "it belongs to the team two (platform.yaml:9)"),
            ("*.a.two.example", "it belongs to the team two (platform.yaml:9)"),
            ("A.TWO.EXAMPLE.", "it belongs to the team two (platform.yaml:9)"),
            ("*.example", "it belongs to the team two (platform.yaml:9)"),
            ("*", "it belongs to the team two (platform.yaml:9)"),
            ("*.one.example", "it owns one.example, shared.example/one/{rest=**} (platform.yaml:8)"),
            ("notone.example", "it owns one.example, shared.example/one/{rest=**} (platform.yaml:8)"),
        ],
    )
    def test_a_team_does_not_claim_the_host_of_another_or_of_none(self, host: str, why: str) -> None:
        shown = host.lower().removesuffix(".")
        [found] = problems(service(hosts=f"'{host}'"))
        assert found == f"services/0.yaml:3: hosts[0]: the team one does not own {shown}: {why}"

    @pytest.mark.parametrize(
        "host",
        ["one.example:443", "xn--.example.:1", "öne.example", "one.example/a", "", "user@one.example", "*.*"],
    )
    def test_what_is_not_exactly_a_host_is_refused(self, host: str) -> None:
        assert "hosts[0]" in problems(service(hosts=f"'{host}'"))[0]

    @pytest.mark.parametrize("path", ["/one", "/one/", "/one/a", "/one/{id}", "/one/a/{rest=**}", "/one/**"])
    def test_a_team_claims_paths_below_those_it_owns(self, path: str) -> None:
        assert accepted(shared(path, "a", "one"))

    @pytest.mark.parametrize("path", ["/two", "/{id}/a", "/**", "/one2", "/One", "/", "/two/one", "/*"])
    def test_a_team_does_not_claim_other_paths_of_a_shared_host(self, path: str) -> None:
        [found] = problems(shared(path, "a", "one"))
        assert found.startswith(
            "services/0.yaml:6: routes[0].paths[0]: the team one does not own "
            f"shared.example{path.removesuffix('/**')}"
        )

    def test_each_unknown_team_is_named(self) -> None:
        [found] = problems(service(owner="ones"))
        assert found == "services/0.yaml:2: owner: the platform has no team 'ones'; did you mean 'one'?"

    def test_two_teams_do_not_own_one_request(self) -> None:
        platform = (
            "domain: d\nteams:\n  a: {owns: ['*.example']}\n  b: {owns: [B.Example, "
            "c.test/x, 'c.test/{y}']}\n"
        )
        assert problems(platform=platform) == [
            (
                "platform.yaml:4: teams.b.owns[0]: b.example/** is already claimed by the "
                "team a (platform.yaml:3)"
            )
        ]

    def test_reserved_hosts_and_paths_are_for_no_team(self) -> None:
        platform = PLATFORM + "reserved: {hosts: [admin.two.example], paths: ['/health', '/internal/**']}\n"
        texts = [
            service(ROUTE, hosts="'*.two.example'", owner="two"),
            service(route("/health"), route("/{any}", name="b"), route("/internal", name="c"), name="other"),
        ]
        assert problems(*texts, platform=platform) == [
            (
                "services/0.yaml:3: hosts[0]: *.two.example is reserved by the platform "
                "(platform.yaml:10: admin.two.example)"
            ),
            (
                "services/1.yaml:6: routes[0].paths[0]: /health is reserved by the platform "
                "(platform.yaml:10): name narrower paths"
            ),
            (
                "services/1.yaml:7: routes[1].paths[0]: /{any} covers /health, which is reserved "
                "by the platform (platform.yaml:10): name narrower paths"
            ),
            (
                "services/1.yaml:8: routes[2].paths[0]: /internal covers /internal/**, which "
                "is reserved by the platform "
                "(platform.yaml:10): name narrower paths"
            ),
        ]

    def test_other_spellings_of_a_reserved_path_are_reserved_where_upstreams_ignore_them(self) -> None:
        text = service(route("/Health"), route("/health/", name="b"))
        platform = PLATFORM + "reserved: {paths: [/health]}\n"
        assert accepted(text, platform=platform)
        platform = platform.replace("policy:", "policy:\n  paths: {case: ignore, trailing_slash: ignore}")
        assert len(problems(text, platform=platform)) == 2


class TestOverlaps:
    PLATFORM = "domain: d\nteams: {one: {owns: ['*']}}\n"

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("/a", "/a"),
            ("/a/{x}", "/a/b"),
            ("/a/{x}", "/{y}/b"),
            ("/**", "/"),
            ("/a/**", "/a"),
            ("/a/{rest=**}", "/a/"),
            ("/a/{rest=**}", "/{x}/{y}/{z}"),
            ("/{x}/c", "/a/{rest=**}"),
            ("/a/{rest=**}", "/a/b/{rest=**}"),
        ],
    )
    @pytest.mark.parametrize(
        "hosts", [("h.example", "h.example"), ("*.example", "H.example"), ("*", "*.a.example")]
    )
    def test_two_services_do_not_cover_one_request(
        self, one: str, other: str, hosts: tuple[str, str]
    ) -> None:
        for first, second in ((one, other), (other, one)):
            texts = [shared(first, "x", "one", hosts[0]), shared(second, "y", "one", hosts[1])]
            [found] = problems(*texts, platform=self.PLATFORM)
            assert "routes[0].paths[0]" in found
            assert "the route x.a (services/0.yaml:6)" in found

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("/a", "/b"),
            ("/a/{x}", "/a"),
            ("/a/{x}", "/a/"),
            ("/a/{x}/c", "/a/b/d"),
            ("/a", "/A"),
            ("/a", "/a/"),
        ],
    )
    def test_paths_with_nothing_in_common_are_no_overlap(self, one: str, other: str) -> None:
        texts = [shared(one, "x", "one"), shared(other, "y", "one")]
        assert accepted(*texts, platform=self.PLATFORM) == 2

    def test_hosts_with_nothing_in_common_are_no_overlap(self) -> None:
        hosts = ["a.example", "b.example", "*.b.example", "*.c.example", "c.example"]
        texts = [shared("/**", f"s{n}", "one", host) for n, host in enumerate(hosts)]
        assert accepted(*texts, platform=self.PLATFORM) == 5

    def test_methods_do_not_part_services(self) -> None:
        texts = [
            shared("/a", name, "one", more=f"methods: [{method}], {ANYONE}")
            for name, method in (("x", "GET"), ("y", "POST"))
        ]
        assert len(problems(*texts, platform=self.PLATFORM)) == 1

    def test_services_have_names_of_their_own(self) -> None:
        [found] = problems(service(), service(route("/b")))
        assert found == "services/1.yaml:1: service: 'shop' is already the service of services/0.yaml"

    def test_routes_have_ids_and_paths_of_their_own(self) -> None:
        text = service(
            route("/a/{x}", f"methods: [GET, PUT], {ANYONE}"),
            route("/a/{y}", f"methods: [PUT], {ANYONE}", name="b"),
            route("/a/{z}", name="c"),
            route("/a/c", name="c"),
            "{id: d, paths: [/d, /d], who: {allow: anyone}}",
        )
        unclear = "so it is unclear which one decides"
        at = "services/0.yaml"
        assert problems(text) == [
            f"{at}:7: routes[1].paths[0]: PUT /a/{{y}} is already in the route a ({at}:6), {unclear}",
            f"{at}:9: routes[3].id: 'c' is already the id of {at}:8",
            f"{at}:10: routes[4].paths[1]: every method /d is already in this route, {unclear}",
        ]


class TestUpstreams:
    PLATFORM = PLATFORM.replace("two: {", "two: {upstreams: ['*.two.internal', 10.1.0.0/16], ") + (
        "reserved: {upstreams: [localhost, 127.0.0.0/8, '::1', 169.254.169.254]}\n"
    )

    @pytest.mark.parametrize(
        "address",
        [
            "localhost:80",
            "LocalHost:80",
            "127.0.0.1:9901",
            "127.9.9.9:80",
            "[::1]:80",
            "[0:0:0:0:0:0:0:1]:80",
            "[::ffff:127.0.0.1]:80",
            "169.254.169.254:80",
        ],
    )
    def test_an_upstream_that_the_platform_reserves_is_refused(self, address: str) -> None:
        text = service().replace("up:80", address)
        [found] = problems(text, platform=self.PLATFORM)
        assert found.startswith(f"services/0.yaml:4: upstream.address: {address} is reserved by the platform")

    @pytest.mark.parametrize(
        "host",
        [
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1:7f00:0:100::",
            "64:ff9b:1:7f:0:1::",
            "64:ff9b:1:0:7f:0:100:0",
            "64:ff9b:1::a9fe:a9fe",
            "2002:7f00:1::5",
            "2001:0:c000:201::80ff:fffe",
            "2001:0:7f00:1::5",
            "2001:db8::5efe:127.0.0.1",
            "2001:db8::200:5efe:7f00:1",
            "::ffff:0:127.0.0.1",
            "::127.0.0.1",
        ],
    )
    def test_an_ipv6_address_that_leads_to_a_reserved_one_is_refused(self, host: str) -> None:
        """NAT64 (RFC 6052, RFC 8215), 6to4, Teredo, ISATAP and others carry an IPv4 address."""
        text = service().replace("up:80", f"[{host}]:80")
        [found] = problems(text, platform=self.PLATFORM)
        assert f"upstream.address: [{host}]:80 leads to what is reserved (platform.yaml:" in found

    @pytest.mark.parametrize(
        "host", ["64:ff9b::8.8.8.8", "2002:808:808::1", "2001:db8::7f00:1", "64:ff9b:1:808:8:800::"]
    )
    def test_an_ipv6_address_that_leads_elsewhere_is_right(self, host: str) -> None:
        assert accepted(service().replace("up:80", f"[{host}]:80"), platform=self.PLATFORM) == 1

    def test_a_pattern_in_the_spelling_of_ipv6_covers_it_too(self) -> None:
        platform = PLATFORM + "reserved: {upstreams: ['::ffff:169.254.0.0/112']}\n"
        [found] = problems(service().replace("up:80", "[::ffff:169.254.169.254]:80"), platform=platform)
        assert "is reserved by the platform" in found

    @pytest.mark.parametrize("host", ["64:ff9b::10.1.0.1", "2002:a01:1::1"])
    def test_a_team_with_networks_of_ipv4_has_no_way_around_them(self, host: str) -> None:
        text = service(owner="two", hosts="a.two.example").replace("up:80", f"[{host}]:80")
        [found] = problems(text, platform=self.PLATFORM)
        assert "is not an upstream of the team two" in found

    @pytest.mark.parametrize("address", ["127.1:80", "0x7f000001:80", "2130706433:80", "a.0x1:80"])
    def test_another_spelling_of_an_address_is_refused(self, address: str) -> None:
        [found] = problems(service().replace("up:80", address), platform=self.PLATFORM)
        assert "upstream.address: " in found

    @pytest.mark.parametrize(
        ("address", "right"),
        [
            ("a.two.internal:80", True),
            ("A.b.TWO.internal:80", True),
            ("10.1.2.3:80", True),
            ("two.internal:80", False),
            ("10.2.0.1:80", False),
            ("other.internal:80", False),
        ],
    )
    def test_a_team_with_upstreams_has_no_others(self, address: str, *, right: bool) -> None:
        text = service(owner="two", hosts="a.two.example").replace("up:80", address)
        if right:
            assert accepted(text, platform=self.PLATFORM) == 1
        else:
            [found] = problems(text, platform=self.PLATFORM)
            assert "is not an upstream of the team two: it has *.two.internal, 10.1.0.0/16" in found

    @pytest.mark.parametrize("pattern", ["10.1.2.3/16", "10.0.0.0/99", "a b"])
    def test_a_pattern_that_matches_nothing_is_refused(self, pattern: str) -> None:
        [found] = problems(platform=PLATFORM + f"reserved: {{upstreams: ['{pattern}']}}\n")
        assert found.startswith("platform.yaml:10: reserved.upstreams[0]: ")


def test_a_service_names_only_files_of_authorities_that_every_edge_has() -> None:
    text = service().replace("{address: 'up:80'}", "{address: 'up:80', tls: {ca_file: /etc/ca.pem}}")
    [found] = problems(text)
    message = "the platform has no ca_file /etc/ca.pem; its ca_files: none"
    assert found == f"services/0.yaml:4: upstream.tls.ca_file: {message}"
    assert accepted(text, platform=PLATFORM + "ca_files: [/etc/other.pem, /etc/ca.pem]\n") == 1


@pytest.mark.parametrize("name", ["a b", "", "-a", "a/b", "a\\n"])
def test_a_server_name_is_a_name(name: str) -> None:
    text = service().replace("{address: 'up:80'}", f'{{address: "up:80", tls: {{server_name: "{name}"}}}}')
    [found] = problems(text)
    assert found.startswith("services/0.yaml:4: upstream.tls.server_name: ")


def test_a_host_is_named_once() -> None:
    [found] = problems(service(hosts="one.example, ONE.example."))
    assert found == "services/0.yaml:3: hosts[1]: one.example is already hosts[0]"


def test_a_file_in_the_folder_of_a_team_is_owned_by_that_team() -> None:
    texts = {"platform.yaml": PLATFORM, "services/one/a/shop.yaml": service()}
    assert len(EstateReader().read(texts, TODAY).services) == 1
    texts = {"platform.yaml": PLATFORM, "services/two/shop.yaml": service()}
    with pytest.raises(
        ConfigError, match=r"two/shop.yaml:2: owner: the file is in the folder of the team two"
    ):
        EstateReader().read(texts, TODAY)


ANCHORS = """\
service: shop
owner: one
hosts: &hosts [one.example]
upstream: {address: "up:80"}
routes:
  - &first {id: a, paths: [/a], who: &who {allow: {issuers: ["https://b"]}}}
  - {<<: *first, id: b, paths: [/b]}
  - {id: c, paths: [/two], who: *who}
"""


def test_anchors_aliases_and_merges_are_checked_like_what_they_mean() -> None:
    platform = PLATFORM.replace("one: {owns", "one: {issuers: ['https://a'], owns")
    found = problems(ANCHORS, platform=platform)
    assert [text.partition(": the issuer")[0] for text in found] == [
        "services/0.yaml:6: routes[0].who.allow",
        "services/0.yaml:6: routes[1].who.allow",
        "services/0.yaml:6: routes[2].who.allow",
    ]


def test_an_anchor_that_holds_itself_is_a_problem() -> None:
    text = service("&r {id: a, paths: [/a], who: {allow: [*r]}}")
    assert problems(text)[0].startswith("services/0.yaml:6: ")
