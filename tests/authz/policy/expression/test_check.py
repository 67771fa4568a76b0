"""An expression that can never mean anything is an error, with what would."""

import re

import pytest

from authz.policy.expression.expression import Expression


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'query.debug == "1"',
            'query.debug is a list and "1" is a text: they are never equal; write "1" in query.debug',
        ),
        ('roles == "guest"', 'write "guest" in roles'),
        ('"guest" == roles', 'write "guest" in roles'),
        ('roles != "guest"', 'they are always different; write !("guest" in roles)'),
        ('headers["x-a"] == "b"', 'write "b" in headers["x-a"]'),
        ("query.a[0] == 1", "query.a[0] is a text and 1 is a whole number: they are never equal"),
        ('size(roles) == "1"', "never equal"),
        ('segments == "a"', "a list and"),
        ("query.debug", "query.debug is a list, neither true nor false; write has(query.debug)"),
        ("roles", "roles is a list, neither true nor false"),
        ("size(roles)", "size(roles) is a whole number, neither true nor false"),
        ("'true'", "'true' is a text, neither true nor false"),
        ("roles && true", "neither true nor false"),
        ("!roles", "neither true nor false"),
        ("roles ? true : false", "neither true nor false"),
        ("true ? 'a' : 'b'", "is a text, neither true nor false"),
        ('"a" in "abc"', 'write "abc".contains("a")'),
        ("1 in roles", "1 is a whole number, and roles never contains one"),
        ("1 in query", "never contains one"),
        ("now > '2026-01-01'", "neither is less than the other"),
        ("roles < 'a'", "neither is less than the other"),
        ("subject + 1 == 'a'", "+ does not take both"),
        ("1 + 2.5 > 2.0", "write double() around both"),
        ("roles.startsWith('a')", "write roles.exists(one, one.startsWith('a'))"),
        ("roles.contains('a')", "write 'a' in roles"),
        ("path.startsWith(1)", "1 is a whole number, and startsWith() needs a text"),
        ("subject.getHours() == 1", "as in now.getHours()"),
        ("subject.name == 'a'", "which has no fields"),
        ("subject['name'] == 'a'", "has no ['name']"),
        ("roles['a'] == 'a'", "its brackets take a whole number"),
        ("roles.exists(r, r == 1)", "never equal"),
        ("subject.exists(r, r == 'a')", "needs a list or a map"),
        ("roles.filter(r, r == 'a')", "is a list, neither true nor false"),
        ("size(1) == 1", "has no size"),
        ("headers['X-A'] == ['b']", "write 'x-a'"),
        ("'X-A' in headers", "write 'x-a'"),
        ("has(headers.Accept)", "write 'accept'"),
        ("host == 'API.example.com:443'", "host is in lower case and has no port: write 'api.example.com'"),
        ("host in ['A.example.com']", "write 'a.example.com'"),
        ("method == 'get'", "write 'GET'"),
        ("path == 'admin'", "path begins with a slash: write '/admin'"),
        ("path.startsWith('admin')", "path begins with a slash"),
        ("kind == 'cookie'", "kind is never 'cookie'; it is jwt or session"),
        ("path.matches('(')", "not a regular expression"),
        ("now > timestamp('tomorrow')", "timestamp('tomorrow') always fails: write it as in"),
        ("now - now > duration('5 days')", "duration('5 days') always fails"),
        ("headers.x-a == 'b'", 'a name with a hyphen is written headers["x-a"]'),
        ("roles.exists(r, r == 'a') && r == 'b'", "'r' is unknown"),
        ("roles.exists(i, r, r == 'a')", "exists() takes one name and a condition"),
        ("type(claims.a) == 'string'", "write string without quotes"),
        ("{1: 'a'}['b'] == 'c'", "its brackets take a whole number, not 'b'"),
        ("headers.filter(h, true)['x'] == ['a']", "its brackets take a whole number"),
        ("roles[-1] == 'a'", "roles[-1] always fails: the last is roles[size(roles) - 1]"),
        ("-subject == 'a'", "- does not take it"),
        ("5.0 % 2.0 == 1.0", "% does not take both"),
        ("size(roles) + 1u == 2u", "write int() around both"),
        ("duration('1h') + now > now", "write now + duration('1h')"),
        ("duration('1h') - now > now", "- does not take both"),
        ("matches(path, '/a')", "write path.matches('/a')"),
        ("getHours() > 8", "write now.getHours()"),
        ("claims.n.string() == '5'", "write string(claims.n)"),
        ("subject.size(1) == 1", "write subject.size()"),
        ("size(roles, 1) == 1", "size() takes one value, not 2"),
        ("path.contains('a', 'b')", "contains() takes one text, not 2"),
        ("headers.contains('x-a')", "write 'x-a' in headers"),
        ("now.getHours('Europe/Berlin') > 8", "in UTC and takes no time zone; the key time of a rule does"),
        ("duration('1h').getFullYear() == 1", "needs a moment"),
        ("int(now) > 5", "which int() does not take; moments are compared with each other"),
        ("string(roles) == 'a'", "roles is a list, which string() does not take"),
        ("now > timestamp(int(claims.exp))", 'duration(string(int(claims.exp)) + "s")'),
        ("now - now > duration(300)", 'write duration("300s")'),
        ("now - now > duration('1h 30m')", "duration('1h 30m') is not read to its end"),
        (r"path.matches('\\d+(')", "not a regular expression (RE2): a ( is not closed"),
        (r"path.matches('\\Qa')", "not a regular expression that matches() supports"),
        (".claims.a", "a name does not begin with a dot: write claims"),
        ("Foo{a: 1}.a == 1", "is a message, which policies do not have"),
    ],
)
def test_what_can_never_be_meant_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Expression(text)


@pytest.mark.parametrize(
    "text",
    [
        '"x" in query && query.x.exists(n, int(n) > 100)',
        "headers['x-a'] == ['b']",
        "query.a[0] == 'b' && size(query.a) == 1 && query.a.size() < 2.5",
        "claims.admin",
        "claims.roles == 'x' || claims.level > 3 || claims.a.b.c in roles",
        "body[0] == 1 || body.a == 'b' || body",
        "now - timestamp('2026-01-01T00:00:00Z') > duration('1h') && now.getHours() >= 8",
        "headers['x-a'][0].startsWith('b') ? true : claims.x",
        "roles.map(r, r + 'x') == ['ax'] && roles.filter(r, r != '').size() > 0",
        "query.all(name, name != 'debug') && [1, 2].exists(x, x == 2)",
        "subject == null || vars.id == subject || path.matches('/a/[0-9]+')",
        "{'a': 1}.a == 1 && type(claims.a) == type(1) && b'a' == b'a' && 0x10 == 16 && 1u == 1u",
        "r'\\d' == '''a''' // a remark\n && -size(roles) < 0",
        "path.startsWith('') && [1] + ['a'] != [] && roles + scopes != ['a'] && dyn(roles) == 'x'",
        "type(claims.a) == string && type(roles) == list && type(null) != null_type && type(1) == int",
        "{1: 'a'}[1] == 'a' && 1 in {1: 'a'} && {1: 'a'}.exists(n, n > 0) && {subject: true}[issuer]",
        "headers.filter(h, h.startsWith('x-'))[0] == 'x-a' && query.filter(k, k != 'a') == []",
        "roles.all(path, path != 'x') && scopes.exists(host, host == 'A') && roles[0u] == 'a'",
        "roles.map(r, r.startsWith('a'), size(r)).exists(n, n > 1) && (true ? roles : []) != scopes",
        "now + duration('1h30m') > now - duration('1.5h') && duration('100ms').getMilliseconds() == 100",
        "timestamp('1970-01-01T00:00:00Z') + duration(string(claims.auth_time) + 's') > now",
        "context_extensions.tier == 'gold' || context_extensions['a'] in roles || has(context_extensions.a)",
        r"path.matches('[a-z&&[^b]]') || path.matches('(?x) /a ') || path.matches('a{1001}')",
        r"b'''a''' != b'b' && 'é\u00e9' != subject && r'\d' != subject && '\\' != subject",
        "!(issuer in ['a', 'b']) && kind in ['jwt', 'anonymous'] && method == 'M-SEARCH'",
    ],
)
def test_what_can_be_meant_is_not(text: str) -> None:
    Expression(text)


def test_the_texts_that_variables_are_compared_with_are_known() -> None:
    found = Expression(
        "issuer == 'a' || issuer in ['b'] || 'c' != issuer || subject == 'd'"
    ).compared.variables
    assert [(one.variable, one.text) for one in found] == [
        ("issuer", "a"), ("issuer", "b"), ("issuer", "c"), ("subject", "d")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claims.a ==", "it ends where more is expected (line 1, character 12 of the expression)"),
        ("(claims.a", "it ends where ) is expected"),
        ("claims.a = 1", "'=' is not part of the language: write == to compare"),
        ("claims.a === 1", "write == to compare"),
        ("claims.a <> 1", "write !="),
        ("claims.a and claims.b", "'and' is not part of the language: write &&"),
        ("claims.a or claims.b", "'or' is not part of the language: write ||"),
        ("not claims.a", "'not' is not part of the language: write !"),
        ("claims.a & claims.b", "write &&"),
        ("claims.a @ 1", "'@' is not expected here (line 1, character 10"),
        ("claims.a\n  ~ 1", "'~' is not expected here (line 2, character 3"),
        ("path == 'a", "no closing quote"),
        ("path == '\\q'", "contains an unknown escape"),
        ("if", "'if' is a reserved word"),
        ("99999999999999999999 == 1", "the number is too large"),
        ("has(claims)", "as in has(claims.tenant)"),
        ("roles.exists(1, true)", "as in roles.exists(role, role == 'admin')"),
        ("claims..a", "'.' is not expected here"),
        ("claims.a ? 1", "it ends where more is expected"),
        ("claims.?a.orValue(1) == 1", "write has(claims.tenant) && ..."),
        ("claims[?'a'].hasValue()", "write 'tenant' in claims && ..."),
        ("claims.`a-b` == 1", 'write claims["a-b"]'),
        ("claims.in == 1", "'in' is not expected here; a field of that name is written [\"in\"]"),
        ("claims.a /* why */ == 1", "a comment begins with //"),
    ],
)
def test_a_mistake_of_the_language_is_reported_in_its_words(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="is not a CEL expression: ") as caught:
        Expression(text)
    assert message in str(caught.value)
    assert not any(
        word in str(caught.value) for word in ("token", "mismatched", "extraneous", "EOF", "viable")
    )
