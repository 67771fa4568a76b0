"""The authz sidecar: `envoy.service.auth.v3.Authorization` over the library `authz`."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from aiohttp.typedefs import Middleware
from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from authz.credentials import Credentials
from authz.credentials.secret_names import secret_names
from authz.engine.candidate import Candidate, CandidateCounts
from authz.engine.decide import ID_BYTES, INTERNAL_ERROR, Authorizer, Decision, decision_ids
from authz.engine.respond import Responder
from authz.policy.compile.compile import Policy
from authz.policy.compile.load import load_policy
from authz.policy.rule import Outcome, Verdict
from authz.request.request import BadRequestError, Request
from authz.wire import CheckRequest, decision_id_of, read_request
from common.background import GilYielder, release, shorten_switch_interval
from common.configfile import ConfigError, Problem, read
from common.redaction import Secrets
from common.redis_cluster import Cluster
from sidecars.admin.routes import AdminRoute
from sidecars.services.authz.admin import admin_routes
from sidecars.services.authz.decisions import Decisions
from sidecars.services.authz.sessions_api import SessionsApi
from sidecars.services.authz.spans import Spans
from sidecars.services.sidecar import Dependencies
from sidecars.settings.authz import AuthzSettings
from sidecars.transport.api.address import Address
from sidecars.transport.api.service import Call, Code, Service, StatusError, Unary

MAX_WARNINGS: Final = 20
"""Warnings of a policy that are logged and shown; `sidecars policy check` shows all."""

CANCELLED: Final = Verdict(Outcome.ERROR, "cancelled", 503)
"""Envoy gave up waiting, or its client did, before there was a decision (opa#6333: never logged)."""

RETIRE_SECONDS: Final = 5.0
"""How long a replaced policy is kept for calls that wait for a credential; most wait milliseconds."""

_log = structlog.get_logger("sidecars.authz")


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Serving:
    """A policy in service. Calls that wait while it is replaced end with the policy they began with."""

    authorizer: Authorizer
    responder: Responder

    def parts(self) -> Iterator[object]:
        """Yield the objects that it owns, owners first (`common.background.release`)."""
        yield from self.responder.parts()
        yield from self.authorizer.parts()
        yield from self.authorizer.policy.parts()


def _exemplar(reply: bytes) -> dict[str, str]:
    return {"decision_id": decision_id_of(reply)}


class AuthzSidecar:
    """Answers Envoy's checks. Made by `build`."""

    name = "authz"

    def __init__(
        self, settings: AuthzSettings, dependencies: Dependencies, policy: Policy, credentials: Credentials
    ) -> None:
        self._settings = settings
        self._wall_clock = dependencies.wall_clock
        self._workers = dependencies.workers
        self._redis = dependencies.redis
        self._trusted_hops = settings.trusted_hops
        self._new_id = decision_ids(dependencies.random)
        self._credentials = credentials
        self._spans = None if settings.tracing is None else Spans(settings.tracing)
        self._decisions = Decisions(
            settings.decisions,
            dependencies.registry,
            dependencies.random,
            None if self._spans is None else self._spans.annotate,
        )
        self._sessions_api = None
        if settings.sessions_api is not None:
            self._sessions_api = SessionsApi(
                settings.sessions_api,
                lambda: credentials.credential_admin,
                dependencies.registry,
                dependencies.monotonic_clock,
            )
        self._secret_names = dependencies.secret_names
        self._decisions.redact(self._secrets_of(policy))
        self._serving = self._serve(policy)
        self._candidate: Candidate | None = None
        """The policy of the next wave of a roll-out, which decides nothing yet."""
        self._candidate_counts = CandidateCounts()
        dependencies.registry.register(self._candidate_counts)
        check = self.check if self._spans is None else self._spans.traced(self.check)
        self.services: Sequence[Service] = (
            Service("envoy.service.auth.v3.Authorization", {"Check": Unary(check, _exemplar)}),
        )

    def check(self, message: bytes, call: Call) -> bytes | Awaitable[bytes]:
        """The CheckResponse to a CheckRequest. Raises StatusError INVALID_ARGUMENT for other bytes."""
        serving = self._serving
        try:
            parsed = read_request(message)
        except DecodeError:
            raise StatusError(Code.INVALID_ARGUMENT, "the message is not a CheckRequest") from None
        now = self._wall_clock()
        request = None
        try:
            request = Request(parsed, self._trusted_hops)
            decision = serving.authorizer.decide(request, now, call.deadline)
        except BadRequestError as error:
            decision = serving.authorizer.unreadable(parsed, error)
        except Exception:  # a defect must refuse this request and no other
            decision = self._failed(serving, request)
        if isinstance(decision, Decision):
            self._decisions.note(parsed, request, decision, now)
            if self._candidate is not None:
                self._judge_candidate(self._candidate, request, decision, now)
            return serving.responder.respond(decision)
        answer = asyncio.ensure_future(self._check_later(serving, decision, parsed, request, now))
        answer.add_done_callback(
            lambda done: self._note_if_given_up(done, serving, decision, parsed, request, now)
        )
        return answer

    async def _check_later(
        self,
        serving: Serving,
        pending: Awaitable[Decision],
        parsed: CheckRequest,
        request: Request | None,
        now: float,
    ) -> bytes:
        try:
            decision = await pending
        except Exception:  # as above
            decision = self._failed(serving, request)
        self._decisions.note(parsed, request, decision, now)
        if self._candidate is not None:
            self._judge_candidate(self._candidate, request, decision, now)
        return serving.responder.respond(decision)

    def _judge_candidate(
        self, candidate: Candidate, request: Request | None, decision: Decision, now: float
    ) -> None:
        """Count what the candidate would have decided; a defect in it must not refuse a request."""
        if request is None:
            return
        try:
            candidate.judge(request, decision, now)
        except Exception:  # as above
            _log.exception("candidate failed; it is judged no more", revision=candidate.policy.revision)
            self._candidate = None

    def _note_if_given_up(
        self,
        answer: "asyncio.Future[bytes]",
        serving: Serving,
        pending: Awaitable[Decision],
        parsed: CheckRequest,
        request: Request | None,
        now: float,
    ) -> None:
        """Record that no one received this answer, for those who look for the decision.

        From outside: under load the caller has left before the first step of what answers it (opa#6333).
        """
        if answer.cancelled():
            if asyncio.iscoroutine(pending):
                pending.close()  # one that has begun has ended
            self._decisions.note(parsed, request, serving.authorizer.decided(CANCELLED), now)

    def _failed(self, serving: Serving, request: Request | None) -> Decision:
        decision = serving.authorizer.decided(INTERNAL_ERROR, request=request)
        _log.exception("decision failed", decision_id=decision.id)
        return decision

    def _serve(self, policy: Policy) -> Serving:
        for problem in policy.warnings[:MAX_WARNINGS]:
            _log.warning("policy warning", problem=str(problem))
        authorizer = Authorizer(policy, self._credentials, self._new_id)
        return Serving(authorizer, Responder(policy, secrets.token_hex(ID_BYTES)))

    def _secrets_of(self, policy: Policy) -> Secrets:
        names = self._secret_names.with_those_of(secret_names([policy.credentials]))
        return Secrets(names.headers, names.query_parameters)

    @property
    def admin_routes(self) -> Sequence[AdminRoute]:
        """Recent decisions, back-channel logout and, where the settings say so, sessions and revocations."""
        offered = admin_routes(self._credentials, session_admin=self._settings.session_admin)
        return (*self._decisions.admin_routes, *offered)

    @property
    def http_address(self) -> Address | None:
        """Where login applications create and revoke sessions, if the settings say so."""
        return None if self._sessions_api is None else self._sessions_api.address

    @property
    def http_routes(self) -> Sequence[AdminRoute]:
        """The calls of the sessions API."""
        return () if self._sessions_api is None else self._sessions_api.routes

    @property
    def http_middlewares(self) -> Sequence[Middleware]:
        """The guard of the sessions API."""
        return () if self._sessions_api is None else (self._sessions_api.guard.middleware,)

    @property
    def watched_files(self) -> Sequence[Path]:
        """The policy files and folders, and the files that the credentials read."""
        included = self._serving.authorizer.policy.files
        return (*self._settings.policy, *included, *self._credentials.watched_files)

    async def start(self) -> None:
        """Begin to fetch key sets and to write the decision log. None need be there."""
        shorten_switch_interval()
        self._decisions.start()
        await self._credentials.start()

    def prepare(self) -> Callable[[], None]:
        """Read and compile policy and credentials again; may run in a thread. Raises ConfigError."""
        policy = load_policy(self._settings.policy, GilYielder().yield_gil)
        _check_shared(policy, self._workers)
        _check_redis(policy, self._redis)
        _check_sessions_api(policy, self._settings)
        swap_credentials = self._credentials.prepare(policy.credentials)
        serving, secrets_of_policy = self._serve(policy), self._secrets_of(policy)

        def swap() -> None:
            swap_credentials()
            self._decisions.redact(secrets_of_policy)
            before, self._serving = self._serving, serving
            # In a thread that waits for work: starting one would hold the loop up until it runs.
            asyncio.get_running_loop().run_in_executor(None, _retire, [before])

        return swap

    def prepare_candidate(self, serving: Path, candidate: Path | None) -> Callable[[], None]:
        """Read the policy as it is below `candidate` instead of `serving`; None: no candidate.

        May run in a thread. Raises ConfigError. The swap judges it from then on.
        """
        read = None
        if candidate is not None:
            paths = tuple(
                candidate / path.relative_to(serving) if path.is_relative_to(serving) else path
                for path in self._settings.policy
            )
            read = Candidate(load_policy(paths, GilYielder().yield_gil), self._candidate_counts)

        def swap() -> None:
            self._candidate = read

        return swap

    def describe(self) -> dict[str, Any]:
        """The revision, the number of rules, the first warnings, and the state of the credentials."""
        policy = self._serving.authorizer.policy
        return {
            "revision": policy.revision,
            "candidate": None if self._candidate is None else self._candidate.policy.revision,
            "rules": len(policy.rules),
            "warnings": [str(problem) for problem in policy.warnings[:MAX_WARNINGS]],
            "credentials": self._credentials.describe(),
            "decisions": self._decisions.describe(),
        }

    def totals(self) -> dict[str, dict[str, float]]:
        """Decisions since the start, by outcome and by reason, and those of candidates."""
        return {**self._decisions.totals(), "candidate": self._candidate_counts.totals()}

    async def finish_streams(self) -> None:
        """Do nothing: every call is unary."""

    async def stop(self) -> None:
        """End the fetching of key sets; write out the decision log and the spans."""
        await self._credentials.stop()
        await self._decisions.stop()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)


def _retire(replaced: list[Serving]) -> None:
    release(replaced, GilYielder().yield_gil, wait_seconds=RETIRE_SECONDS)


def build(settings: AuthzSettings, dependencies: Dependencies) -> AuthzSidecar:
    """The sidecar, its files read and compiled. Raises ConfigError with every problem."""
    policy = load_policy(settings.policy)
    _check_shared(policy, dependencies.workers)
    redis = dependencies.redis if isinstance(dependencies.redis, Redis) else None
    _check_redis(policy, dependencies.redis)
    _check_sessions_api(policy, settings)
    credentials = Credentials(
        policy.credentials,
        registry=dependencies.registry,
        monotonic_clock=dependencies.monotonic_clock,
        wall_clock=dependencies.wall_clock,
        random=dependencies.random,
        redis=redis,
    )
    return AuthzSidecar(settings, dependencies, policy, credentials)


def _check_redis(policy: Policy, redis: Redis | Cluster | None) -> None:
    """Raise ConfigError if `policy` keeps something in `redis`, and that is a cluster."""
    if redis is None or isinstance(redis, Redis):
        return
    blocks = {"sessions": policy.credentials.sessions, "revocations": policy.credentials.revocations}
    problems = [
        _of_credentials(
            policy.files,
            (name, "store"),
            f"cannot be redis with redis.cluster: a cluster divides the keys that {name} need together; use "
            "one server, or a master with Sentinels",
        )
        for name, block in blocks.items()
        if block is not None and block.store == "redis"
    ]
    if problems:
        raise ConfigError(problems)


def _check_shared(policy: Policy, workers: int) -> None:
    """Raise ConfigError for state that one worker would have, but not the others or its successor."""
    blocks = {"sessions": policy.credentials.sessions, "revocations": policy.credentials.revocations}
    problems = [
        _of_credentials(
            policy.files,
            (name, "store"),
            f"cannot be memory with workers: {workers}: each would know its own {name}, and one that is "
            "started again none; write store: redis",
        )
        for name, block in blocks.items()
        if workers > 1 and block is not None and block.store == "memory"
    ]
    if problems:
        raise ConfigError(problems)


def _check_sessions_api(policy: Policy, settings: AuthzSettings) -> None:
    """Raise ConfigError if the settings offer sessions that `policy` does not have."""
    if settings.sessions_api is not None and policy.credentials.sessions is None:
        problem = (
            "is missing, and authz.sessions_api of the settings needs it; write sessions: {store: redis}"
        )
        raise ConfigError([_of_credentials(policy.files, ["sessions"], problem)])


def _of_credentials(files: Sequence[Path], keys: Sequence[str], message: str) -> Problem:
    """A problem below `credentials`, at its line in the one of `files` that holds the block."""
    for document in map(read, files):
        if isinstance(document.data, dict) and "credentials" in document.data:
            return document.problem(("credentials", *keys), message)
    return Problem(str(files[0]), 0, ".".join(("credentials", *keys)), message)
