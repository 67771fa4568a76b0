"""Which rule a descriptor falls under: GetLimit of envoyproxy/ratelimit, case by case."""

from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.buckets import SECOND_US, Bucket, FixedWindow, TokenBucket
from common.configfile import parse
from ratelimit.config import compile_limits
from ratelimit.match import MAX_KEY_LENGTH, Entry, Match, bucket_key, match, metric_path
from ratelimit.rules import Node, Options, Wildcard

BUCKET = TokenBucket(1, 1, SECOND_US)


def tree(descriptors: str) -> Node:
    text = f"domain: d\ndescriptors:\n{dedent(descriptors)}"
    return compile_limits([parse(text)], Options()).domains["d"]


def matched(root: Node, *entries: Entry) -> str | None:
    found = match(root, entries)
    return None if found is None else found.rule.key


LIMIT = "rate_limit: {unit: minute, requests_per_unit: 1}"


class TestLevels:
    ROOT = tree(
        f"""
        - {{key: a, value: x, {LIMIT}}}
        - {{key: a, value: "p*", {LIMIT}}}
        - {{key: a, value: "pq*", {LIMIT}}}
        - {{key: a, {LIMIT}}}
        - key: b
          {LIMIT}
          descriptors:
            - {{key: c, value: "1", {LIMIT}}}
        - key: n
          descriptors:
            - {{key: m, {LIMIT}}}
        """
    )

    @pytest.mark.parametrize(
        ("entries", "rule"),
        [
            ([("a", "x")], "d.a_x"),
            ([("a", "y")], "d.a"),
            ([("a", "")], "d.a"),
            ([("a", "p")], "d.a_p*"),
            ([("a", "pqr")], "d.a_p*"),
            ([("z", "x")], None),
            ([], None),
        ],
        ids=["exact", "bare key", "no value", "star for nothing", "first in order", "unknown key", "empty"],
    )
    def test_exact_then_the_first_wildcard_then_the_bare_key(
        self, entries: list[Entry], rule: str | None
    ) -> None:
        assert matched(self.ROOT, *entries) == rule

    def test_a_deeper_request_than_the_configuration_has_no_limit(self) -> None:
        assert matched(self.ROOT, ("a", "x"), ("b", "1")) is None

    def test_a_shallower_request_than_the_configuration_has_no_limit(self) -> None:
        assert matched(self.ROOT, ("n", "1")) is None

    def test_a_node_with_a_limit_and_children_works_for_both_depths(self) -> None:
        assert matched(self.ROOT, ("b", "any")) == "d.b"
        assert matched(self.ROOT, ("b", "any"), ("c", "1")) == "d.b.c_1"
        assert matched(self.ROOT, ("b", "any"), ("c", "2")) is None

    def test_there_is_no_way_back_from_a_branch(self) -> None:
        root = tree(
            f"""
            - key: a
              value: x
              descriptors: [{{key: b, value: "1", {LIMIT}}}]
            - key: a
              descriptors: [{{key: b, {LIMIT}}}]
            """
        )
        assert matched(root, ("a", "x"), ("b", "2")) is None
        assert matched(root, ("a", "y"), ("b", "2")) == "d.a.b"

    def test_composite_keys_are_compared_as_they_are_joined(self) -> None:
        assert matched(tree(f"- {{key: a, value: b_c, {LIMIT}}}"), ("a_b", "c")) == "d.a_b_c"


class TestOuterBlanks:
    """HTTP/1 strips them from headers, HTTP/2 does not (RFC 9110 section 5.5)."""

    ROOT = tree(
        f"""
        - {{key: tenant, value: acme, {LIMIT}}}
        - {{key: tenant, value: "team *", {LIMIT}}}
        - {{key: tenant, value: "* beta", {LIMIT}}}
        - {{key: tenant, {LIMIT}}}
        - {{key: site, normalise: host, {LIMIT}}}
        - {{key: one, value: " a b\t", {LIMIT}}}
        - {{key: none, value: " ", {LIMIT}}}
        """
    )

    @pytest.mark.parametrize("value", ["acme", " acme", "acme ", "\tacme", "acme\t", " \t acme\t  "])
    def test_a_value_is_read_without_them(self, value: str) -> None:
        found = match(self.ROOT, (("tenant", value),))
        assert found is not None
        assert (found.rule.key, list(found.counted)) == ("d.tenant_acme", [("tenant", "acme")])

    @pytest.mark.parametrize(
        ("value", "rule", "counted"),
        [
            (" other\t", "d.tenant", "other"),
            (" \t", "d.tenant", ""),
            ("ac me", "d.tenant", "ac me"),
            ("\u00a0acme", "d.tenant", "\u00a0acme"),
            ("\x0bacme", "d.tenant", "\x0bacme"),
            ("\nacme", "d.tenant", "\nacme"),
            (" team  x ", "d.tenant_team *", "team  x"),
            ("\tmy beta ", "d.tenant_* beta", "my beta"),
        ],
    )
    def test_blanks_within_and_other_characters_stay(self, value: str, rule: str, counted: str) -> None:
        found = match(self.ROOT, (("tenant", value),))
        assert found is not None
        assert (found.rule.key, list(found.counted)) == (rule, [("tenant", counted)])

    def test_a_file_is_read_alike(self) -> None:
        assert matched(self.ROOT, ("one", "a b")) == "d.one_a b"
        assert matched(self.ROOT, ("one", " a b\t")) == "d.one_a b"
        # A value of blanks alone is the empty value, and not any value.
        assert matched(self.ROOT, ("none", "\t")) == "d.none_"
        assert matched(self.ROOT, ("none", "x")) is None

    def test_they_do_not_count_where_hosts_are_normalised(self) -> None:
        found = match(self.ROOT, (("site", " Example.com "),))
        assert found is not None
        assert list(found.counted) == [("site", "example.com")]

    def test_nor_in_metrics(self) -> None:
        root = tree(f"- {{key: tenant, detailed_metric: true, {LIMIT}}}")
        found = match(root, (("tenant", " acme\t"),))
        assert found is not None
        assert metric_path(root, found.rule, "d", (("tenant", " acme\t"),)) == ("d", "tenant_acme")

    @given(
        *[st.text("a \t", max_size=6) | st.text(max_size=6)] * 2,
        st.tuples(*[st.text(" \t", max_size=3)] * 2),
    )
    def test_they_alone_make_no_difference(self, one: str, other: str, blanks: tuple[str, str]) -> None:
        root = tree(f"- {{key: any, {LIMIT}}}")

        def key(value: str) -> str:
            found = match(root, (("any", value),))
            assert found is not None
            return bucket_key("d", BUCKET, found.counted)

        before, behind = blanks
        assert key(f"{before}{one}{behind}") == key(one)
        assert (key(one) == key(other)) == (one.strip(" \t") == other.strip(" \t"))


class TestWildcards:
    @pytest.mark.parametrize(
        ("pattern", "text", "fits"),
        [
            ("k_*", "k_", True),
            ("k_*", "k_anything", True),
            ("k_*", "k", False),
            ("k_a*z", "k_az", True),
            ("k_a*z", "k_a/b/z", True),
            ("k_a*z", "k_a", False),
            ("k_a*a", "k_a", False),
            ("k_*b*", "k_abc", True),
            ("k_*b*", "k_ac", False),
            ("k_*a*a*", "k_xaxax", True),
            ("k_*a*a*", "k_xax", False),
            ("k_*ab", "k_abab", True),
            ("*", "", True),
            ("**", "x", True),
            ("k_/users/*/posts", "k_/users/7/posts", True),
            ("k_/users/*/posts", "k_/users/posts", False),
        ],
    )
    def test_each_star_stands_for_any_text(self, pattern: str, text: str, fits: bool) -> None:
        assert Wildcard(tuple(pattern.split("*")), Node({})).matches(text) is fits

    @given(
        st.text("ab*", min_size=1, max_size=8).filter(lambda text: "*" in text), st.text("ab", max_size=12)
    )
    def test_stars_agree_with_a_simple_minded_matcher(self, pattern: str, text: str) -> None:
        def simple(rest: str, left: str) -> bool:
            if not rest:
                return not left
            if rest[0] == "*":
                return any(simple(rest[1:], left[cut:]) for cut in range(len(left) + 1))
            return left[:1] == rest[0] and simple(rest[1:], left[1:])

        assert Wildcard(tuple(pattern.split("*")), Node({})).matches(text) == simple(pattern, text)

    def test_many_stars_take_no_exponential_time(self) -> None:
        """A client chooses the value: a backtracking matcher would take ages over this one."""
        wildcard = Wildcard(tuple(("*a" * 30 + "*b").split("*")), Node({}))
        assert not wildcard.matches("a" * 50_000)

    def test_values_under_share_threshold_are_counted_as_one(self) -> None:
        root = tree(f'- {{key: f, value: "files/*", share_threshold: true, {LIMIT}}}')
        keys = {bucket_key("d", BUCKET, found.counted) for found in _found(root, "files/a", "files/b")}
        assert len(keys) == 1

    def test_values_of_other_wildcards_are_counted_apart(self) -> None:
        root = tree(f'- {{key: f, value: "files/*", {LIMIT}}}')
        keys = {bucket_key("d", BUCKET, found.counted) for found in _found(root, "files/a", "files/b")}
        assert len(keys) == 2

    def test_share_threshold_holds_for_the_levels_below(self) -> None:
        root = tree(
            f"""
            - key: f
              value: "files/*"
              share_threshold: true
              descriptors: [{{key: user, {LIMIT}}}]
            """
        )
        found = match(root, (("f", "files/a"), ("user", "u")))
        assert found is not None
        assert list(found.counted) == [("f", "files/*"), ("user", "u")]


class TestMetricPaths:
    ENTRIES: tuple[Entry, ...] = (("key", "foo1"), ("sub", "s1"))

    @pytest.mark.parametrize(
        ("outer", "inner", "path"),
        [
            ('value: "foo*"', "", ("d", "key_foo*", "sub")),
            ('value: "foo*"', "detailed_metric: true,", ("d", "key_foo1", "sub_s1")),
            ('value: "foo*", value_to_metric: true', "", ("d", "key_foo1", "sub")),
            ('value: "foo*"', "value_to_metric: true,", ("d", "key_foo*", "sub_s1")),
            ('value: "foo*", share_threshold: true, value_to_metric: true', "", ("d", "key_foo*", "sub")),
            ('value: "foo*", share_threshold: true', "detailed_metric: true,", ("d", "key_foo*", "sub_s1")),
            ("value_to_metric: true", "", ("d", "key_foo1", "sub")),
        ],
        ids=[
            "as configured",
            "detailed_metric shows all values",
            "value_to_metric shows its own level",
            "value_to_metric of the inner level",
            "share_threshold beats value_to_metric",
            "share_threshold beats detailed_metric",
            "value_to_metric of a bare key",
        ],
    )
    def test_what_a_metric_key_shows(self, outer: str, inner: str, path: tuple[str, ...]) -> None:
        root = tree(f"- {{key: key, {outer}, descriptors: [{{key: sub, {inner} {LIMIT}}}]}}")
        found = match(root, self.ENTRIES)
        assert found is not None
        assert metric_path(root, found.rule, "d", self.ENTRIES) == path

    def test_only_rules_with_values_in_their_key_need_it(self) -> None:
        plain = match(tree(f"- {{key: key, {LIMIT}}}"), (("key", "x"),))
        valued = match(tree(f"- {{key: key, value_to_metric: true, {LIMIT}}}"), (("key", "x"),))
        assert plain is not None
        assert valued is not None
        assert (plain.rule.metric_has_values, valued.rule.metric_has_values) == (False, True)


entries_lists = st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=4)
awkward_lists = st.lists(st.tuples(st.text("a_|=%37CD25", max_size=4), st.text("a_|=%37CD25", max_size=4)))


class TestBucketKeys:
    def test_underscores_do_not_make_one_of_two(self) -> None:
        """envoyproxy/ratelimit joins unescaped: there (a_b, c) and (a, b_c) share a counter."""
        assert bucket_key("d", BUCKET, [("a_b", "c")]) != bucket_key("d", BUCKET, [("a", "b_c")])

    @given(entries_lists | awkward_lists, entries_lists | awkward_lists)
    def test_different_entries_have_different_keys(self, one: list[Entry], other: list[Entry]) -> None:
        assert (bucket_key("d", BUCKET, one) == bucket_key("d", BUCKET, other)) == (one == other)

    def test_domains_are_apart(self) -> None:
        keys = {bucket_key(domain, BUCKET, [("a", "b")]) for domain in ("d", "d|a=b", "e")}
        assert len(keys) == 3

    def test_windows_and_algorithms_are_apart_and_limits_are_not(self) -> None:
        """A new requests_per_unit counts on in the same bucket (envoyproxy/ratelimit#808)."""
        buckets: list[Bucket] = [
            BUCKET,
            TokenBucket(5, 5, SECOND_US),
            TokenBucket(1, 1, 2 * SECOND_US),
            FixedWindow(1, SECOND_US),
        ]
        keys = [bucket_key("d", bucket, [("a", "b")]) for bucket in buckets]
        assert keys[0] == keys[1]
        assert len(set(keys)) == 3

    def test_long_values_make_no_long_keys(self) -> None:
        keys = {bucket_key("d", BUCKET, [("path", "x" * length)]) for length in (1_000, 60_000)}
        assert len(keys) == 2
        assert max(map(len, keys)) <= MAX_KEY_LENGTH


def _found(root: Node, *values: str) -> list[Match]:
    found = [match(root, (("f", value),)) for value in values]
    return [one for one in found if one is not None]
