"""From a request to the identity behind it."""

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Final

from authz.credentials.core.location import Place, find
from authz.credentials.core.metrics import CredentialMetrics
from authz.credentials.core.verifier import Verified, Verifier
from authz.credentials.mtls.verifier import Certificates
from authz.credentials.throttle.throttle import BAD, MAX_SUBJECT_CHARACTERS, Throttle
from authz.request.identity import Identity, Outcome, Refusal, RefusalReason, named
from authz.request.request import Request

_TOO_MANY_OF_ADDRESS: Final = "too many bad credentials from this address"
_TOO_MANY_OF_SUBJECT: Final = "too many bad credentials in this name"


class PlacesAuthenticator:
    """Looks at the places of one configuration. Immutable; a reload brings another."""

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

    def authenticate(self, request: Request, now: float) -> Outcome | Awaitable[Outcome]:
        """The outcome at once, or an awaitable where something must be fetched. `now`: unix seconds."""
        found = find(self._places, request)
        if found is None:
            return None if self._certificates is None else self._counted(self._certificates.verify(request))
        if isinstance(found, Refusal):
            return self._counted(found)
        verifier, credential = found
        known = verifier.known(credential, now)
        if known is not None:
            return self._counted(known)
        return self._anew(verifier, credential, request, now)

    def _anew(
        self, verifier: Verifier, credential: str, request: Request, now: float
    ) -> Outcome | Awaitable[Outcome]:
        throttle_check = self._stopped(verifier, credential, request)
        if throttle_check is not None:
            return self._counted(throttle_check)
        outcome = verifier.verify(credential, now, lambda: self._stopped(verifier, credential, request))
        if isinstance(outcome, Identity | Refusal):
            return self._judged(outcome, verifier, credential, request)
        return self._later(outcome, verifier, credential, request)

    async def _later(
        self, pending: Awaitable[Verified], verifier: Verifier, credential: str, request: Request
    ) -> Outcome:
        return self._judged(await pending, verifier, credential, request)

    def _judged(self, outcome: Verified, verifier: Verifier, credential: str, request: Request) -> Outcome:
        if self._throttle is not None and isinstance(outcome, Refusal) and outcome.reason in BAD:
            # Cut here, as a charge may have to wait: clients choose how long a subject is.
            subject = verifier.unverified_subject(credential)[:MAX_SUBJECT_CHARACTERS]
            charge = partial(self._throttle.failed, request.client_address, subject)
            if outcome.once_final is None:
                charge()
            else:
                # Its key may have been replaced: until that is known, the client is not charged.
                outcome.once_final(charge)
        return self._counted(outcome)

    def _stopped(self, verifier: Verifier, credential: str, request: Request) -> Refusal | None:
        """A refusal where so much was bad that this is not looked at any more."""
        throttle = self._throttle
        if throttle is None or not len(throttle):
            return None
        seconds = throttle.stops_address(request.client_address)
        if seconds:
            return Refusal(RefusalReason.THROTTLED, _TOO_MANY_OF_ADDRESS, retry_after_seconds=seconds)
        # Only while somebody's name is misused does it cost anything to see whose name this is.
        seconds = (
            throttle.stops_subject(verifier.unverified_subject(credential)) if throttle.counts_subjects else 0
        )
        if seconds:
            return Refusal(RefusalReason.THROTTLED, _TOO_MANY_OF_SUBJECT, retry_after_seconds=seconds)
        return None

    def _counted(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Identity) and not outcome.plain:
            outcome = named(outcome)
        if isinstance(outcome, Identity):
            self._metrics.accepted[outcome.kind] += 1
        elif outcome is not None:
            self._metrics.count_refusal(outcome)
        return outcome
