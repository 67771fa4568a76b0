"""What the running process says on its admin port: version, reloads, workers, sinks, key sets."""

from collections.abc import Iterator, Mapping
from math import inf
from typing import Any

from sidecars.client.pages import NoAnswerError, Page, admin_page
from sidecars.doctor.finding import Finding, fail, ok, warn
from sidecars.observability.process_metrics import package_version
from sidecars.settings.root import Settings

Config = Mapping[str, Any]


async def read_admin(settings: Settings) -> tuple[Page, Config]:
    """Return /readyz and /config of the process. Raises NoAnswerError."""
    ready = await admin_page(settings, "/readyz")
    config: Config = (await admin_page(settings, "/config")).json()
    return ready, config


def of_readiness(settings: Settings, ready: Page) -> Finding:
    """Return the finding of /readyz."""
    check = f"admin {settings.admin.listen}"
    if ready.status == 200:
        return ok(check, "ready")
    state = ", ".join(ready.body.decode(errors="replace").strip().split("\n")[:3])
    return fail(check, f"not ready: {state}", "read the log of the process")


def of_no_answer(settings: Settings, error: NoAnswerError) -> Finding:
    """Return the finding of an admin port that does not answer."""
    if str(error).startswith("no answer"):
        fix = "it hangs: take a stack trace (py-spy dump --pid PID), then start it again"
    elif "token" in str(error):
        fix = "name a file in admin.token_file that this user can read, with the token of the process"
    else:
        fix = "start the process, or compare admin.listen with that of the process"
    return fail(f"admin {settings.admin.listen}", str(error), fix)


def findings_of(config: Config) -> Iterator[Finding]:
    """Yield the findings of a /config page, of one process or of a supervisor with its workers."""
    running = config.get("version")
    if running and running != package_version():
        seen = f"{running} runs, {package_version()} is installed"
        yield warn("version", seen, "restart the process, or run the doctor of the version that runs")
    workers = config.get("workers")
    if workers is None:
        yield from _of_process("", config)
        return
    for worker in workers:
        number = worker.get("worker")
        name = f"worker {number} "
        own = worker.get("config")
        if own is None:
            seen = f"does not answer ({worker.get('phase', 'unknown')})"
            yield fail(name.strip(), seen, "read the log; a worker that hangs is killed after 30 s")
        else:
            yield from _of_process(name, own)
    yield from _of_revisions(workers)


def _of_process(name: str, config: Config) -> Iterator[Finding]:
    for section in ("redis", "redis_per_second"):
        yield from _of_redis(f"{name}{section} as the process sees it", config.get(section))
    for sidecar, about in config.get("sidecars", {}).items():
        check = f"{name}{sidecar}"
        reload = about.get("last_reload")
        if reload is not None and not reload["ok"]:
            problems = "; ".join(reload["problems"][:3])
            seen = f"refused the files at {reload['at']} and serves the last good ones: {problems}"
            yield fail(
                f"{check} reload", seen, "correct the file, and try it first: sidecars config check FILE"
            )
        state = about.get("state", {})
        for warning in state.get("warnings", ())[:3]:
            yield warn(f"{check} files", str(warning), "see the line that it names")
        for sink in state.get("sinks", ()):
            if sink.get("failing"):
                problem = sink.get("problem") or "the log of the process has the reason"
                waiting = f"cannot be written: {problem}; {sink['queue_entries']} entries wait"
                yield fail(f"{check} sink {sink['name']}", waiting, "remove the cause; it is tried again")
            if (sink.get("spool") or {}).get("failing"):
                problem = sink["spool"].get("problem") or "the log of the process has the reason"
                seen = f"{sink['spool']['folder']} cannot be used: {problem}"
                yield fail(
                    f"{check} spool {sink['name']}", seen, "until then entries are lost at the next restart"
                )
        for issuer in state.get("credentials", {}).get("issuers", ()):
            yield _of_key_set(f"{name}keys of {issuer.get('issuer')}", issuer.get("key_set", {}))


def _of_key_set(check: str, key_set: Config) -> Finding:
    keys, age, problem = key_set.get("keys", ()), key_set.get("age_seconds"), key_set.get("problem")
    place = key_set.get("url") or key_set.get("file")
    fix = f"see that {place} can be read from here, and holds the public keys of the issuer"
    if not keys:
        refused = ", ".join(key_set.get("refused_keys", ()))
        return fail(check, f"no usable key: {problem or refused or 'none was fetched yet'}", fix)
    if age is None:
        return ok(check, f"{len(keys)} keys")
    aged = f"{len(keys)} keys, {age:g} s old" + (f"; the last fetch failed: {problem}" if problem else "")
    # A process of an older version does not tell them.
    refresh, longest = key_set.get("refresh_seconds", inf), key_set.get("max_stale_seconds", inf)
    if age > longest:
        return fail(check, f"{aged}: every token is refused (max_stale_seconds)", fix)
    return warn(check, aged, fix) if problem or age > 2 * refresh else ok(check, aged)


def _of_redis(check: str, state: Config | None) -> Iterator[Finding]:
    if state is None:
        return
    if state.get("state") in {"away", "refuses", "refuses connections"}:
        why = state.get("last_error") or state.get("last_refusal") or "no reason is known"
        yield fail(check, f"{state['state']}: {why}", "see the checks of Redis below")


def _of_revisions(workers: list[Config]) -> Iterator[Finding]:
    for sidecar in ("authz", "ratelimit", "accesslog"):
        found = {_revision(worker, sidecar) for worker in workers} - {None}
        if len(found) > 1:
            seen = f"the workers serve different revisions: {', '.join(map(str, found))}"
            yield fail(f"{sidecar} revision", seen, "reload again: kill -HUP the supervisor")


def _revision(worker: Config, sidecar: str) -> str | None:
    config = worker.get("config") or {}
    revision: str | None = config.get("sidecars", {}).get(sidecar, {}).get("state", {}).get("revision")
    return revision


def domains_in(config: Config) -> frozenset[str]:
    """Return the domains that ratelimit has limits for; empty if the page does not tell."""
    workers = config.get("workers")
    processes = [config] if workers is None else [worker.get("config") or {} for worker in workers]
    return frozenset(
        domain
        for process in processes
        for domain in process.get("sidecars", {}).get("ratelimit", {}).get("state", {}).get("domains", ())
    )
