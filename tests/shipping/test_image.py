"""What Docker would build from deploy/Dockerfile: built in chroots, started and used."""

import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from tests.support.dockerfile import Stage, build, inside, words
from tests.support.manifests import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="builds chroots: run as root"),
    pytest.mark.skipif(
        shutil.which("debootstrap") is None, reason="needs debootstrap (apt install debootstrap)"
    ),
]

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
MIRROR = r"s/^(URIs:|deb) +(\[[^]]*\] +)?([a-z]+:[^ ]+).*/\3/p"


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tree of Debian 13, as the base image has it; $DEBIAN_TREE may name one."""
    named = os.environ.get("DEBIAN_TREE")
    root = Path(named) if named else bootstrapped(tmp_path_factory.mktemp("debian") / "root")
    # Names, certificates and the package index of this machine, which the base image gets from Docker.
    shutil.copy(ssl.get_default_verify_paths().cafile or CERTIFICATES, root / "etc" / "machine.pem")
    for name in ("etc/resolv.conf", "etc/hosts", "etc/pip.conf"):
        if Path("/", name).exists():
            shutil.copy(Path("/", name), root / name)
    return root


def bootstrapped(root: Path) -> Path:
    """Install a bare Debian 13 into `root`, from the mirror of this machine, and return it."""
    lists = [str(file) for file in Path("/etc/apt").rglob("*") if file.suffix in {".list", ".sources"}]
    found = subprocess.run(["sed", "-nE", MIRROR, *lists], capture_output=True, text=True, check=True).stdout
    mirror = os.environ.get("DEBIAN_MIRROR", found.split("\n")[0])
    subprocess.run(
        ["debootstrap", "--variant=minbase", "trixie", root, mirror], check=True, stdout=subprocess.DEVNULL
    )
    return root


@pytest.fixture(scope="module")
def image(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return build(DOCKERFILE, ROOT, debian, tmp_path_factory.mktemp("stages"))


def test_no_pip_no_compiler_and_nothing_of_the_build_is_in_the_image(image: Stage) -> None:
    programs = {"cc", "gcc", "make", "pip", "pip3", "x86_64-linux-gnu-gcc"}
    packages = {"ensurepip", "hatchling", "pip"}
    found = [
        str(path.relative_to(image.root))
        for path in image.root.rglob("*")
        if path.name in (programs if path.parent.name in {"bin", "sbin"} else packages)
    ]
    assert found == []
    assert not (image.root / "src").exists()


def test_the_application_is_a_layer_of_its_own(image: Stage) -> None:
    dependencies, application = image.copied
    assert not dependencies & application
    packages = {
        name.split("/site-packages/")[1].split("/")[0] for name in application if "site-packages" in name
    }
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {name for name in packages if not name.endswith(".dist-info")} == set(wheel["packages"])
    assert len(application) * 2 < len(dependencies)


def test_the_image_serves_with_a_read_only_root_as_its_user(image: Stage, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("rules: [{name: all, paths: ['/{rest=**}'], allow: anyone}]\n")
    (tmp_path / "sidecars.yaml").write_text(
        "admin: {listen: 127.0.0.1:9090}\n"
        "authz: {listen: ['unix:/run/sidecars/authz.sock?mode=0660'], policy: [policy.yaml]}\n"
    )
    tmp_path.chmod(0o755)
    mounts = (
        'mount --bind "$1" "$1" && mount -t proc proc "$1/proc" && mount --bind "$2" "$1/etc/sidecars" '
        '&& mount -t tmpfs -o uid=10001,gid=10001,mode=0750 tmpfs "$1/run/sidecars" '
        '&& mount -t tmpfs tmpfs "$1/dev" && touch "$1/dev/null" "$1/dev/urandom" '
        '&& mount --bind /dev/null "$1/dev/null" && mount --bind /dev/urandom "$1/dev/urandom" '
        '&& mount -o remount,ro,bind "$1" && /sbin/ip link set lo up && root=$1 && shift 2 '
        '&& exec setpriv --no-new-privs /usr/sbin/chroot --userspec=10001:10001 "$root" "$@"'
    )
    command = [*words(image.described["ENTRYPOINT"]), *words(image.described["CMD"])]
    health = words(image.described["HEALTHCHECK"])
    log = tmp_path.parent / "log"
    # --net: the port of the health check is fixed, and this machine may use it.
    unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=SIGTERM"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*unshare, "sh", "-c", mounts, "sh", image.root, tmp_path, *command],
            env=image.variables,
            stdout=output,
            stderr=output,
        )
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def checked(*wanted: str) -> subprocess.CompletedProcess[str]:
            """Run a command in the container, as `docker exec` and the health check do."""
            [child] = children.read_text().split()
            enter = ["nsenter", f"--target={child}", "--net", "--mount", "--pid", "--root"]
            return subprocess.run(
                [*enter, "--setuid=10001", "--setgid=10001", *wanted],
                env=image.variables,
                capture_output=True,
                text=True,
                check=False,
            )

        def healthy() -> bool:
            assert process.poll() is None, log.read_text()
            return bool(children.read_text().split()) and checked(*health).returncode == 0

        ends = time.monotonic() + 120
        while not healthy():
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.2)
        assert (
            checked("python", "-c", "open('/opt/sidecars/new', 'w')")
            .stderr.strip()
            .endswith("[Errno 30] Read-only file system: '/opt/sidecars/new'")
        )
        listed = checked(
            "python", "-c", "import os; print(oct(os.stat('/run/sidecars/authz.sock').st_mode), os.getuid())"
        )
        assert listed.stdout.split() == ["0o140660", "10001"]
        assert checked("sidecars", "version").stdout.strip() == image.variables["VERSION"]
        # `docker stop` signals the process in the container, and `unshare` ignores SIGTERM.
        os.kill(int(children.read_text()), signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_every_wheel_is_there_for_both_architectures(image: Stage, tmp_path: Path) -> None:
    """The build has no compiler, so each dependency needs a wheel for the Python of the image."""
    version = inside(
        image.root, ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], {}
    ).strip()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(one for name in ("kafka", "logs", "otel", "parquet", "spool", "zstd") for one in extras[name]),
    ]
    for machine in ("x86_64", "aarch64"):
        platforms = [
            f"--platform={tag}_{machine}"
            for tag in ("manylinux2014", "manylinux_2_28", "manylinux_2_34", "manylinux_2_41")
        ]
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
        place = ["--target", str(tmp_path / machine), "--only-binary=:all:", "--python-version", version]
        done = subprocess.run(
            [*command, *place, *platforms, "-c", ROOT / "constraints.txt", *wanted],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
