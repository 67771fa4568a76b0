"""Finds out who sent a request."""

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Final

from authz.credentials.core.find import Place, find
from authz.credentials.core.metrics import CredentialMetrics
from authz.credentials.core.verifier import Verified, Verifier
from authz.credentials.mtls.verifier import Certificates
from authz.credentials.throttle.throttle import BAD, MAX_SUBJECT_CHARACTERS, Throttle
from authz.request.identity import Authentication, Identity, Refusal, RefusalReason, named
from authz.request.request import Request

_TOO_MANY_OF_ADDRESS: Final = "too many bad credentials from this address"
_TOO_MANY_OF_SUBJECT: Final = "too many bad credentials in this name"


class PlacesAuthenticator:
    """Verifies the credential in the places of one configuration. Immutable: a reload makes a new one."""

    def __init__(
        self,
        places: Sequence[Place],
        metrics: CredentialMetrics,
        throttle: Throttle | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self._places = places
        self._metrics = metrics
        self._throttle = throttle
        self._certificates = certificates

    def authenticate(self, request: Request, now: float) -> Authentication | Awaitable[Authentication]:
        """Return the outcome, or an awaitable if something must be fetched. `now` is in unix seconds."""
        found = find(self._places, request)
        if found is None:
            return None if self._certificates is None else self._counted(self._certificates.verify(request))
        if isinstance(found, Refusal):
            return self._counted(found)
        verifier, credential = found
        cached = verifier.cached(credential, now)
        if cached.__class__ is Identity and cached.plain:
            self._metrics.accepted[cached.credential] += 1
            return cached
        if cached is not None:
            return self._counted(cached)
        return self._verify(verifier, credential, request, now)

    def _verify(
        self, verifier: Verifier, credential: str, request: Request, now: float
    ) -> Authentication | Awaitable[Authentication]:
        throttled = self._throttled(verifier, credential, request)
        if throttled is not None:
            return self._counted(throttled)
        outcome = verifier.verify(credential, now, lambda: self._throttled(verifier, credential, request))
        if isinstance(outcome, Identity | Refusal):
            return self._judged(outcome, verifier, credential, request)
        return self._later(outcome, verifier, credential, request)

    async def _later(
        self, pending: Awaitable[Verified], verifier: Verifier, credential: str, request: Request
    ) -> Authentication:
        return self._judged(await pending, verifier, credential, request)

    def _judged(
        self, outcome: Verified, verifier: Verifier, credential: str, request: Request
    ) -> Authentication:
        if self._throttle is not None and isinstance(outcome, Refusal) and outcome.reason in BAD:
            # Cut, because a charge may wait in memory, and clients choose how long a subject is.
            subject = verifier.unverified_subject(credential)[:MAX_SUBJECT_CHARACTERS]
            charge = partial(self._throttle.failed, request.client_address, subject)
            if outcome.once_final is None:
                charge()
            else:
                # The key may have been replaced: until that is known, the client is not charged.
                outcome.once_final(charge)
        return self._counted(outcome)

    def _throttled(self, verifier: Verifier, credential: str, request: Request) -> Refusal | None:
        """Return a refusal if the client or the subject has failed too often, else None."""
        throttle = self._throttle
        if throttle is None or not len(throttle):
            return None
        seconds = throttle.stops_address(request.client_address)
        if seconds:
            return Refusal(RefusalReason.THROTTLED, _TOO_MANY_OF_ADDRESS, retry_after_seconds=seconds)
        # The claimed subject costs time to read, so it is read only while failures of subjects are counted.
        seconds = (
            throttle.stops_subject(verifier.unverified_subject(credential)) if throttle.counts_subjects else 0
        )
        if seconds:
            return Refusal(RefusalReason.THROTTLED, _TOO_MANY_OF_SUBJECT, retry_after_seconds=seconds)
        return None

    def _counted(self, outcome: Authentication) -> Authentication:
        if isinstance(outcome, Identity) and not outcome.plain:
            outcome = named(outcome)
        if isinstance(outcome, Identity):
            self._metrics.accepted[outcome.credential] += 1
        elif outcome is not None:
            self._metrics.count_refusal(outcome)
        return outcome
