"""`sidecars release`."""

import base64
import json
import time
from pathlib import Path

import pytest

from edge.bundle.errors import BundleError
from edge.release.signed import verify_release
from tests.support.bundles import CONTENT, Signer
from tests.support.command import Command, Result


class Rollout:
    """A release file, and bundles next to it."""

    def __init__(self, folder: Path, sidecars: Command) -> None:
        self.folder, self.file = folder, folder / "release.json"
        self.signer = Signer(folder)
        self._sidecars = sidecars
        for number in (1, 2):
            content = {**CONTENT, "note": str(number).encode()}
            (folder / f"r{number}.tar.gz").write_bytes(self.signer.archive(content, f"r{number}", number))

    def __call__(self, step: str, *arguments: str | Path) -> Result:
        signing = ("--key", self.signer.private, "--key-id", "release", "--by", "ann")
        return self._sidecars("release", step, self.file, *arguments, *signing)

    def look(self, command: str, *arguments: str | Path) -> Result:
        return self._sidecars("release", command, self.file, *arguments)

    def begin(self) -> None:
        assert self("start", self.folder / "r1.tar.gz").out.endswith("release 1: r1 everywhere\n")
        started = self("start", self.folder / "r2.tar.gz", "--wave", "canary:5%", "--wave", "all:100%")
        assert started.out.endswith("release 2: r2 in 0 of 2 waves\n")


@pytest.fixture
def rollout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Rollout:
    return Rollout(tmp_path, Command(capsys))


def test_a_roll_out_from_its_start_to_its_rollback(rollout: Rollout) -> None:
    rollout.begin()
    assert rollout("promote").out.endswith("release 3: r2 in 1 of 2 waves\n")
    assert rollout("hold", "--why", "denials rise").out.endswith("1 of 2 waves, held: denials rise\n")
    refused = rollout("promote")
    assert (refused.code, refused.err) == (
        1,
        f"{rollout.file}: it is held: denials rise (say --resume to go on)\n",
    )
    assert rollout("promote", "--resume").out.endswith("release 5: r2 everywhere\n")
    assert rollout("rollback", "--why", "orders are refused").out.endswith("release 6: r1 everywhere\n")
    release = verify_release(rollout.file.read_bytes(), rollout.signer.keys, None)
    assert (release.current.url, release.sequence) == ("r1.tar.gz", 6)


def test_the_state_and_what_an_edge_serves(rollout: Rollout) -> None:
    rollout.begin()
    shown = rollout.look("status", "--node", "edge-1,region=eu").out
    assert "wave      off canary: 5%\n" in shown
    assert shown.endswith("node      edge-1,region=eu serves r1\n")
    rollout("promote", "--all")
    assert json.loads(rollout.look("status", "--node", "edge-1", "--json").out)["node"] == "r2"


def test_a_file_may_end_and_is_signed_again(rollout: Rollout) -> None:
    started = rollout("start", rollout.folder / "r1.tar.gz", "--valid-days", "0")
    assert ", until 20" in started.out
    ended = rollout.file.read_bytes()
    with pytest.raises(BundleError, match=r"the signature of the release file expired 1[0-9]{2} s ago"):
        verify_release(ended, rollout.signer.keys, time.time() + 120)
    assert verify_release(ended, rollout.signer.keys, None).sequence == 1
    assert "valid     until 20" in rollout.look("status").out
    signing = ("--key", rollout.signer.private, "--key-id", "release")
    again = rollout.look("sign", *signing, "--valid-days", "30")
    assert again.out.startswith(f"{rollout.file}: release 1: r1 everywhere, until 20")
    verify_release(rollout.file.read_bytes(), rollout.signer.keys, time.time() + 29 * 86_400)
    assert json.loads(rollout.look("status", "--json").out)["expires_at"] > time.time() + 29 * 86_400
    rollout.look("sign", *signing)
    assert json.loads(rollout.look("status", "--json").out)["expires_at"] is None


@pytest.mark.parametrize("end", ["1e300", "Infinity", "9" * 30, "true", '"soon"'])
def test_an_end_that_is_no_time_is_told_in_words(rollout: Rollout, end: str) -> None:
    """The status shows files that come back from a web server, whose signature it does not check."""
    rollout.begin()
    forged = json.loads(rollout.file.read_bytes())
    parts = ('{"alg": "none"}', f'{{"exp": {end}}}')
    encoded = (base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
    forged["signatures"] = [".".join((*encoded, ""))]
    rollout.file.write_text(json.dumps(forged))
    for format_ in ((), ("--json",)):
        shown = rollout.look("status", *format_)
        assert (shown.code, shown.err) == (1, f"{rollout.file}: the claim exp is not a time\n")


def test_a_file_of_another_key_is_not_signed_again(rollout: Rollout, tmp_path: Path) -> None:
    rollout.begin()
    before = rollout.file.read_bytes()
    other = Signer(tmp_path, key_id="new", number=1)
    signing = ("--key", other.private, "--key-id", "new")
    assert rollout.look("sign", *signing).code == 1
    assert rollout.file.read_bytes() == before
    assert rollout.look("sign", *signing, "--signed-by", f"release={rollout.signer.public}").code == 0
    assert verify_release(rollout.file.read_bytes(), other.keys, None).sequence == 2


def test_the_log_tells_who_released_what_and_that_it_is_whole(rollout: Rollout) -> None:
    rollout.begin()
    rollout("rollback", "--why", "orders are refused")
    lines = rollout.look("log").out.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "ann start r1 (release 1)",
        "ann start r2 (release 2, 0 of 2 waves)",
        "ann rollback r1 (release 3): orders are refused",
    ]
    verified = rollout.look("log", "--verify", "--key", f"release={rollout.signer.public}")
    assert verified.out.endswith(
        "ok: 3 entries; the release file names the last one, and its signature is good\n"
    )


def test_a_log_that_was_changed_stops_every_step(rollout: Rollout) -> None:
    rollout.begin()
    log = rollout.folder / "release.log"
    whole = log.read_text()
    for changed, why in (
        (whole.replace("ann", "bob", 1), "line 1 was changed"),
        ("".join(whole.splitlines(keepends=True)[:1]), "it was cut short or replaced"),
        ("", "it was cut short or replaced"),
    ):
        log.write_text(changed)
        for refused in (rollout("promote"), rollout.look("log", "--verify")):
            assert refused.code == 1
            assert why in refused.err
    log.write_text(whole)
    assert rollout("promote").code == 0


@pytest.mark.parametrize(
    "step", [("start", "r1.tar.gz"), ("promote",), ("hold", "--why", "x"), ("rollback",)]
)
def test_no_step_signs_a_file_that_was_changed(rollout: Rollout, step: tuple[str, ...]) -> None:
    rollout.begin()
    content = json.loads(rollout.file.read_text())
    content["release"]["active"] = 2
    forged = json.dumps(content)
    rollout.file.write_text(forged)
    name, *more = step
    refused = rollout(name, *(rollout.folder / one if one.endswith(".gz") else one for one in more))
    text = "'release/data.json' is not the file that was signed"
    assert (refused.code, refused.err) == (1, f"{rollout.file}: {text}\n")
    assert rollout.file.read_text() == forged
    assert len(rollout.look("log").out.splitlines()) == 2


def test_a_new_key_signs_what_the_old_one_signed(rollout: Rollout) -> None:
    rollout.begin()
    (rollout.folder / "new").mkdir()
    old, rollout.signer = rollout.signer, Signer(rollout.folder / "new", "ES256")
    assert rollout("promote").err == f"{rollout.file}: the signature is not one of the key 'release'\n"
    assert rollout("promote", "--signed-by", f"release={old.public}").out.endswith(
        "release 3: r2 in 1 of 2 waves\n"
    )


def test_a_file_that_was_never_written_stays_in_the_log(rollout: Rollout) -> None:
    rollout.begin()
    before = rollout.file.read_bytes()
    rollout("promote")
    rollout.file.write_bytes(before)  # as after a crash between the two
    assert "names the one before the last 1" in rollout.look("log", "--verify").out
    assert rollout("promote").code == 0
    assert rollout.look("log", "--verify").out.count("4 entries; the release file names the last one") == 1


def test_a_release_file_that_was_lost_goes_on_after_the_last_number_in_the_log(rollout: Rollout) -> None:
    rollout.begin()
    rollout.file.unlink()
    assert rollout("start", rollout.folder / "r2.tar.gz").out.endswith("release 3: r2 everywhere\n")
    assert rollout.look("log", "--verify").code == 0


def test_bad_usage(rollout: Rollout) -> None:
    assert rollout("promote").code == 1
    assert rollout("start", rollout.folder / "r1.tar.gz", "--wave", "canary").code == 2
    assert rollout("start", rollout.folder / "r1.tar.gz", "--url", "https://b.example/").code == 2
    assert rollout("start", rollout.signer.private).code == 1
    assert "for --signed-by: 'x': expected ID=FILE" in rollout("promote", "--signed-by", "x").err
