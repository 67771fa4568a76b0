"""A simulated pipeline: the job that releases in waves, and stops a release that breaks a gate.

Each step and each gate is that of `sidecars release` (`edge.release.steps`, `edge.release.gate`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from bench.tools.fleet import Behaviour
from edge.release import steps
from edge.release.gate import Report, Result, check_gates
from edge.release.model import Gates, Release, Target, Wave

CHECK_SECONDS: Final = 60.0
"""How often the job looks at the reports."""

SOAK_SECONDS: Final = 600.0
"""How long a wave serves at least before the next one."""

WAVES: Final = (
    Wave(name="canary", percent=1),
    Wave(name="tenth", percent=10),
    Wave(name="eu", percent=100, match={"region": "eu"}),
    Wave(name="all", percent=100),
)
GATES: Final = Gates(
    min_nodes=1, min_calls=1000, max_error_share=0.001, max_denied_rise=0.02, max_changed_share=0.05
)


def target(number: int) -> Target:
    """Return the bundle of a release."""
    revision = f"r{number}"
    return Target(revision=revision, digest=sha256(revision.encode()).hexdigest(), url=f"{revision}.tar.gz")


@dataclass(frozen=True, slots=True)
class Step:
    """A change of the release file."""

    at: float
    action: str
    """`start`, `promote`, `hold` or `rollback`."""
    revision: str
    """The revision that is rolled out or back."""
    active: int
    """The waves that serve it after the step."""
    why: str = ""


class Pipeline:
    """Releases one revision after the other. `plan`: when each starts, in seconds, and what it does."""

    def __init__(self, plan: Sequence[tuple[float, Behaviour]]) -> None:
        self.release: Release = steps.start(None, target(1))
        self.behaviours: dict[str, Behaviour] = {"r1": Behaviour()}
        self.steps: list[Step] = []
        self._plan = list(plan)
        self._number = 1
        self._changed_at = 0.0

    def check(self, now: float, reports: Callable[[Mapping[str, Behaviour]], Sequence[Report]]) -> None:
        """Do the step that is due. `reports` gives those of the edges."""
        release = self.release
        if release.complete:
            if self._plan and now >= self._plan[0][0]:
                self._start(now, self._plan.pop(0)[1])
            return
        if release.held:
            self._step(now, "rollback", steps.rollback(release), release.held)
            return
        found = check_gates(release, reports(self.behaviours))
        broken = [one.text for one in found if one.result is Result.BROKEN]
        if broken:
            self._step(now, "hold", steps.hold(release, "; ".join(broken)), "; ".join(broken))
        elif not found and now - self._changed_at >= SOAK_SECONDS:
            self._step(now, "promote", steps.promote(release))

    def _start(self, now: float, behaviour: Behaviour) -> None:
        self._number += 1
        new = target(self._number)
        self.behaviours[new.revision] = behaviour
        self._step(now, "start", steps.start(self.release, new, WAVES, GATES))

    def _step(self, now: float, action: str, release: Release, why: str = "") -> None:
        of = self.release if action == "rollback" else release
        self.release, self._changed_at = release, now
        self.steps.append(Step(now, action, of.current.revision, release.active, why))
