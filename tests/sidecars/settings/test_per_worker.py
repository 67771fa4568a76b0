"""What each of several workers is given, and what several workers cannot share."""

from pathlib import Path

import pytest

from common.configfile import ConfigError
from sidecars.settings.load import load_settings
from sidecars.settings.per_worker import for_worker
from sidecars.settings.root import Settings

RATELIMIT = "ratelimit: {listen: ['unix:/run/rl.{worker}.sock'], limits: [limits], replicas: 3}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sidecars.yaml"


def settings(file: Path, text: str, workers: int = 2) -> Settings:
    file.write_text(f"workers: {workers}\n{text}")
    return load_settings(file, {})


def problem(file: Path, text: str, **environ: str) -> str:
    file.write_text(f"workers: 2\n{text}")
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environ)
    (found,) = caught.value.problems
    return str(found).removeprefix(f"{file}:")


def listen_of(settings: Settings, worker: int) -> list[str]:
    ratelimit = for_worker(settings, worker).ratelimit
    assert ratelimit is not None
    return [str(address) for address in ratelimit.listen]


def test_a_worker_puts_its_number_into_the_path_of_its_socket(file: Path) -> None:
    both = settings(file, RATELIMIT)
    assert [listen_of(both, worker) for worker in (0, 1)] == [
        ["unix:/run/rl.0.sock"],
        ["unix:/run/rl.1.sock"],
    ]


def test_the_mode_of_a_socket_is_that_of_each_worker(file: Path) -> None:
    text = "accesslog: {listen: ['unix:/run/{worker}/al.sock?mode=0600']}\n"
    accesslog = for_worker(settings(file, text), 1).accesslog
    assert accesslog is not None
    assert (str(accesslog.listen[0]), getattr(accesslog.listen[0], "mode", None)) == (
        "unix:/run/1/al.sock",
        0o600,
    )


def test_worker_n_listens_on_the_port_plus_n(file: Path) -> None:
    text = "ratelimit: {listen: ['127.0.0.1:9001', '[::1]:9001', '127.0.0.1:0'], limits: [l]}\n"
    both = settings(file, text)
    assert listen_of(both, 0) == ["127.0.0.1:9001", "[::1]:9001", "127.0.0.1:0"]
    assert listen_of(both, 1) == ["127.0.0.1:9002", "[::1]:9002", "127.0.0.1:0"]


def test_one_worker_is_worker_0_so_that_a_second_moves_nothing(file: Path) -> None:
    assert listen_of(settings(file, RATELIMIT, workers=1), 0) == ["unix:/run/rl.0.sock"]


def test_one_worker_needs_no_placeholder(file: Path) -> None:
    plain = RATELIMIT.replace(".{worker}", "")
    assert listen_of(settings(file, plain, workers=1), 0) == ["unix:/run/rl.sock"]


def test_each_worker_is_one_more_replica_while_the_shared_store_is_away(file: Path) -> None:
    found = for_worker(settings(file, RATELIMIT), 1).ratelimit
    assert found is not None
    assert found.options.replicas == 6


def test_files_of_a_worker_have_its_number(file: Path) -> None:
    text = (
        "accesslog:\n  listen: ['unix:/{worker}']\n"
        "  sinks: [{type: file, path: 'al.{worker}.jsonl', spool: {folder: 'spool.{worker}'}}]\n"
        "authz: {listen: ['unix:/a{worker}'], policy: [p], decisions: {log: {file: 'd.{worker}'}}}\n"
    )
    own = for_worker(settings(file, text), 1)
    assert own.accesslog is not None
    assert own.authz is not None
    assert own.authz.decisions.log is not None
    assert getattr(own.accesslog.sinks[0], "path", None) == file.parent / "al.1.jsonl"
    assert own.accesslog.sinks[0].spool is not None
    assert own.accesslog.sinks[0].spool.folder == file.parent / "spool.1"
    assert own.authz.decisions.log.file == file.parent / "d.1"


def test_each_worker_may_have_an_admin_address_and_no_port_file(file: Path) -> None:
    text = "admin: {listen: '127.0.0.1:9090', workers: '127.0.0.1:9091', port_file: p}\n"
    own = for_worker(settings(file, text), 1).admin
    assert (str(own.listen), own.port_file) == ("127.0.0.1:9092", None)


@pytest.mark.parametrize(
    ("text", "line", "key", "write"),
    [
        (
            "ratelimit:\n  limits: [l]\n  listen: ['unix:/run/rl.sock']\n",
            *(4, "ratelimit.listen[0]", "/run/rl.{worker}.sock"),
        ),
        ("accesslog: {listen: ['unix:@al']}\n", 2, "accesslog.listen[0]", "@al.{worker}"),
        ("admin: {workers: 'unix:/r.d/admin'}\n", 2, "admin.workers", "/r.d/admin.{worker}"),
        (
            "accesslog:\n  listen: ['unix:/{worker}']\n  sinks:\n    - {type: file, path: al.jsonl}\n",
            *(5, "accesslog.sinks[0].path", "al.{worker}.jsonl"),
        ),
        (
            "accesslog:\n  listen: ['unix:/{worker}']\n  sinks:\n    - {type: stdout, spool: {folder: sp}}\n",
            *(5, "accesslog.sinks[0].spool.folder", "sp.{worker}"),
        ),
        (
            "authz: {listen: ['unix:/{worker}'], policy: [p], decisions: {log: {file: log}}}\n",
            *(2, "authz.decisions.log.file", "log.{worker}"),
        ),
    ],
)
def test_what_each_needs_for_itself_has_to_say_worker(
    file: Path, text: str, line: int, key: str, write: str
) -> None:
    found = problem(file, text)
    assert found.startswith(f"{line}: {key}: with workers: 2 each needs a ")
    assert found.endswith(f" of its own: write {write}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "accesslog: {listen: ['127.0.0.1:9001']}\nratelimit: {listen: ['127.0.0.1:9002'], limits: [l]}\n",
            "accesslog.listen[0]: 127.0.0.1:9002, for worker 1, is taken by worker 0 of ratelimit.listen[0];",
        ),
        (
            "accesslog: {listen: ['127.0.0.1:9089']}\n",
            "accesslog.listen[0]: 127.0.0.1:9090, for worker 1, is taken by admin.listen;",
        ),
        (
            "accesslog: {listen: ['127.0.0.1:65535']}\n",
            "accesslog.listen[0]: worker 1 would listen on port 65536; the last one is 65535",
        ),
        (
            "admin: {workers: '127.0.0.1:0'}\n",
            "admin.workers: needs a port: no client would know the one that the kernel picks",
        ),
        (
            "authz: {listen: ['unix:/{worker}'], policy: [p], session_admin: true}\n",
            "authz.session_admin: cannot be with workers: 2, as a session in memory is known to one worker",
        ),
    ],
)
def test_what_several_workers_cannot_share_is_an_error_at_its_line(
    file: Path, text: str, expected: str
) -> None:
    assert problem(file, text).startswith(f"2: {expected}")


def test_two_addresses_of_one_sidecar_may_not_meet(file: Path) -> None:
    text = "accesslog: {listen: ['127.0.0.1:9001', '127.0.0.1:9002']}\n"
    assert "worker N listens on port + N" in problem(file, text)


def test_an_address_from_the_environment_is_named_by_its_variable(file: Path) -> None:
    file.write_text("workers: 2\nratelimit: {limits: [l]}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(file, {"SIDECARS_RATELIMIT__LISTEN": '["unix:/rl"]'})
    assert str(caught.value).startswith("SIDECARS_RATELIMIT__LISTEN: ratelimit.listen[0]: with workers: 2")


def test_other_problems_do_not_hide_those_of_workers(file: Path) -> None:
    file.write_text("workers: 2\nlog: {level: loud}\naccesslog: {listen: ['unix:/al']}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(file, {})
    assert [found.key_path for found in caught.value.problems] == ["log.level", "accesslog.listen[0]"]


def test_http_of_a_worker_is_on_the_port_plus_n(file: Path) -> None:
    text = "ratelimit: {listen: ['unix:/r.{worker}'], limits: [l.yaml], http: '127.0.0.1:8080'}"
    workers = [for_worker(settings(file, text), worker).ratelimit for worker in range(2)]
    assert [str(one.http) for one in workers if one is not None] == ["127.0.0.1:8080", "127.0.0.1:8081"]


def test_further_admin_addresses_are_those_of_all_workers(file: Path) -> None:
    text = "admin: {also_listen: ['127.0.0.1:6070'], workers: '127.0.0.1:9100'}"
    assert for_worker(settings(file, text), 1).admin.also_listen == ()


@pytest.mark.parametrize(
    "text",
    [
        "admin: {also_listen: ['127.0.0.1:9090']}",
        "admin: {also_listen: ['127.0.0.1:6070', '0.0.0.0:6070']}",
        "ratelimit: {listen: ['127.0.0.1:8080'], limits: [l.yaml], http: '127.0.0.1:8080'}",
    ],
)
def test_addresses_of_http_and_admin_may_not_meet(file: Path, text: str) -> None:
    assert "is taken by" in problem(file, text)
