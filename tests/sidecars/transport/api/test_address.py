import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecars.transport.api.address import (
    DEFAULT_SOCKET_MODE,
    Address,
    TcpAddress,
    UnixAddress,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9001", TcpAddress("127.0.0.1", 9001)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("[::1]:65535", TcpAddress("::1", 65535)),
        ("[::]:9001", TcpAddress("::", 9001)),
        ("unix:/run/sidecars/authz.sock", UnixAddress("/run/sidecars/authz.sock")),
        ("unix:authz.sock", UnixAddress("authz.sock")),
        ("unix:///run/authz.sock", UnixAddress("/run/authz.sock")),
        ("0:9001", TcpAddress("0", 9001)),
        ("[fe80::1%lo]:9001", TcpAddress("fe80::1%lo", 9001)),
        ("unix:/run/a.sock?mode=0600", UnixAddress("/run/a.sock", 0o600)),
        ("unix:/run/a.sock?mode=777", UnixAddress("/run/a.sock", 0o777)),
        ("unix:@authz", UnixAddress("@authz")),
        ("unix:/" + "x" * 106, UnixAddress("/" + "x" * 106)),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected HOST:PORT"),
        ("9001", "expected HOST:PORT"),
        (":9001", "expected HOST:PORT"),
        ("localhost:", "expected HOST:PORT"),
        ("localhost:http", "expected HOST:PORT"),
        ("localhost:-1", "expected HOST:PORT"),
        ("localhost:65536", "0-65535"),
        ("localhost:٣", "expected HOST:PORT"),
        ("::1:9001", "in brackets"),
        ("[localhost]:9001", "expected HOST:PORT"),
        (" localhost:9001", "expected HOST:PORT"),
        ("user@host:9001", "expected HOST:PORT"),
        ("tcp://127.0.0.1:9001", "expected 127.0.0.1:9001 (HOST:PORT), without tcp://"),
        ("tcp://[::]:9001", "expected [::]:9001 "),
        ("tcp:127.0.0.1:9001", "expected 127.0.0.1:9001 (HOST:PORT), without tcp:"),
        ("http://localhost:9001/", "expected localhost:9001 (HOST:PORT), without http://"),
        ("dns:///localhost:9001", "expected localhost:9001 "),
        ("ipv6:[::1]:9001", "expected [::1]:9001 "),
        ("https://localhost", "expected HOST:PORT, without https://"),
        ("/run/a.sock", "a unix socket is written unix:/run/a.sock"),
        ("./a.sock", "a unix socket is written unix:./a.sock"),
        ("a.sock", "a unix socket is written unix:a.sock"),
        ("@authz", "a unix socket is written unix:@authz"),
        ("unix-abstract:authz", "a unix socket is written unix:@authz"),
        ("http+unix:///run/a.sock", "a unix socket is written unix:/run/a.sock"),
        ("UNIX:/run/a.sock", "a unix socket is written unix:/run/a.sock"),
        ("unix://run/a.sock", "expected unix:/run/a.sock or unix:run/a.sock, without //"),
        ("unix://@authz", "expected unix:@authz, without //"),
        ("unix:~/a.sock", "expected the whole path"),
        (":9001", "as in 127.0.0.1:9001; all addresses are written [::]:9001"),
        ("9001", "as in 127.0.0.1:9001; all addresses are written [::]:9001"),
        ("*:9001", "as in 127.0.0.1:9001; all addresses are written [::]:9001"),
        ("unix:", "expected a path"),
        ("unix:@", "expected a path"),
        ("unix:?mode=0600", "expected a path"),
        ("unix:/" + "x" * 107, "at most 107 bytes"),
        ("unix:/" + "ü" * 54, "at most 107 bytes"),
        ("unix:/a?mode=rw", "octal"),
        ("unix:/a?mode=0800", "octal"),
        ("unix:/a?mode=1777", "octal"),
        ("unix:/a?mode=-1", "octal"),
        ("unix:/a?mode=", "octal"),
        ("unix:/a?user=envoy", "?mode="),
        ("unix:@a?user=envoy", "?mode="),
        ("unix:@a?mode=0600", "an abstract name has no file and so no mode: any local user"),
        ("unix:@a?mode=0660", "an abstract name has no file and so no mode: any local user"),
    ],
)
def test_what_is_no_address_is_told_what_would_be_right(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"[Ee]xpected|brackets|at most|written") as caught:
        parse_address(text)
    assert says in str(caught.value)
    assert repr(text) in str(caught.value)


def test_a_socket_is_closed_to_strangers_unless_told_otherwise() -> None:
    address = parse_address("unix:/run/a.sock")
    assert isinstance(address, UnixAddress)
    assert address.mode == DEFAULT_SOCKET_MODE == 0o660


@pytest.mark.parametrize(("path", "abstract"), [("@authz", True), ("/run/@authz", False)])
def test_an_abstract_name_starts_with_an_at_sign(path: str, abstract: bool) -> None:
    assert UnixAddress(path).abstract is abstract


@given(st.ip_addresses().map(str), st.integers(0, 65535))
def test_a_tcp_address_reads_back_as_it_was_written(host: str, port: int) -> None:
    address = TcpAddress(host, port)
    assert parse_address(str(address)) == address


@given(st.text(st.characters(exclude_characters="?\x00", exclude_categories=["Cs"]), min_size=2, max_size=26))
def test_a_unix_address_reads_back_as_it_was_written(path: str) -> None:
    address = UnixAddress(path)
    assert parse_address(str(address)) == address


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        parse_address(text)
    except ValueError as error:
        assert repr(text) in str(error)  # noqa: PT017  # most texts raise, some do not
