"""The steps of a roll-out. Each makes the next release of the present one."""

from collections.abc import Sequence

from edge.release.model import Gates, Release, ReleaseError, Target, Wave


def start(
    present: Release | None, target: Target, waves: Sequence[Wave] = (), gates: Gates | None = None
) -> Release:
    """Return the release of `target`. With waves, none serves it yet: `promote` begins with the first.

    Raises ReleaseError while another one is under way.
    """
    if present is None:
        return Release(sequence=1, current=target)
    if not present.complete:
        text = (
            f"the roll-out of {present.current.revision} is under way: promote it to its end, or roll it back"
        )
        raise ReleaseError(text)
    if target.digest == present.current.digest:
        raise ReleaseError(f"{target.revision} serves already")
    return Release(
        sequence=present.sequence + 1,
        current=target,
        previous=present.current,
        waves=tuple(waves),
        gates=gates or Gates(),
    )


def promote(present: Release, *, to_all: bool = False) -> Release:
    """Return the release with one more wave, or all. Raises ReleaseError if it is held or complete."""
    if present.held:
        raise ReleaseError(f"it is held: {present.held} (say --resume to go on)")
    if present.complete:
        raise ReleaseError(f"every edge serves {present.current.revision} already")
    active = len(present.waves) if to_all else present.active + 1
    return _changed(present, active=active)


def hold(present: Release, why: str) -> Release:
    """Return the release held where it is. Raises ReleaseError if it is complete."""
    if present.complete:
        raise ReleaseError(f"every edge serves {present.current.revision} already: nothing to hold")
    return _changed(present, held=why)


def resume(present: Release) -> Release:
    """Return the release no longer held."""
    return present.model_copy(update={"held": ""})


def rollback(present: Release) -> Release:
    """Return the release by which every edge serves the previous revision. Raises ReleaseError without it."""
    if present.previous is None:
        raise ReleaseError("no previous revision to go back to")
    back = {"current": present.previous, "previous": None, "waves": (), "active": 0, "held": ""}
    return _changed(present, **back)


def _changed(present: Release, **changes: object) -> Release:
    return present.model_copy(update={"sequence": present.sequence + 1, **changes})
