"""What a server offers to this edge: the bundle itself or, in a staged roll-out, the one of its wave."""

import asyncio
import hashlib
import socket
from dataclasses import dataclass, replace
from urllib.parse import urljoin

from common.background import background_work
from edge.bundle.archive import Bounds
from edge.bundle.bundle import Bundle, Trust, order_of, read_bundle
from edge.bundle.errors import BundleError, Fault
from edge.bundle.keys import public_keys
from edge.bundle.signature import Signature
from edge.release.choose import target_of
from edge.release.model import Target
from edge.release.signed import SignedRelease, verify_signed
from sidecars.process.bundle.source import fetch
from sidecars.process.bundle.store import Accepted, BundleStore
from sidecars.settings.bundle import BundleSettings


@dataclass(frozen=True, slots=True)
class Offer:
    """A bundle that may serve here."""

    digest: str
    revision: str
    order: int
    """Its place among the bundles (`edge.bundle.bundle.order_of`)."""
    release: int = 0
    """The sequence of the release file that names it; 0 without one."""
    keep: frozenset[str] = frozenset()
    """Digests of bundles to be kept on disk in addition: those that the release may change to."""
    new: tuple[Bundle, bytes] | None = None
    """The bundle and its archive, unless it serves already."""
    expires_at: float | None = None
    """The end of its signature, or of the release file that names it, in Unix seconds."""
    content: str = ""
    """As in `Accepted`."""
    issued_at: float | None = None
    """As in `Accepted`."""
    candidate: Target | None = None
    """The present revision of a release, while this edge still serves the previous one."""


async def offer_of(
    settings: BundleSettings, body: bytes, before: Accepted | None, store: BundleStore, now: float
) -> Offer:
    """Return what the answer of the server offers to an edge that serves `before`. `now`: Unix seconds.

    Raises BundleError, ConfigError for a key that cannot be read, FetchError and OSError.
    """
    if settings.staged:
        return await _staged(settings, body, before, store, now)
    bundle, signature = await asyncio.to_thread(_verified, settings, body, now)
    if before is not None and bundle.digest == before.digest:
        return Offer(before.digest, before.revision, before.order)
    order = order_of(bundle, signature)
    content = await asyncio.to_thread(bundle.content_digest)
    if before is None or (order, content) != (before.order, before.content):
        _check_order(order, before)
    elif not _is_later(None if signature is None else signature.issued_at, before):  # with another signature
        return Offer(before.digest, before.revision, before.order)
    return Offer(
        bundle.digest,
        bundle.manifest.revision,
        order,
        new=(bundle, body),
        expires_at=None if signature is None else signature.expires_at,
        content=content,
        issued_at=None if signature is None else signature.issued_at,
    )


def record_of(offer: Offer, etag: str, now: float) -> Accepted:
    """Return the record of an offer that serves since `now`, in Unix seconds."""
    return Accepted(
        offer.digest,
        offer.revision,
        offer.order,
        etag,
        now,
        offer.release,
        offer.expires_at,
        offer.content,
        offer.issued_at,
    )


async def _staged(
    settings: BundleSettings, body: bytes, before: Accepted | None, store: BundleStore, now: float
) -> Offer:
    signed = await asyncio.to_thread(_verified_release, settings, body, now)
    release = signed.release
    _check_release(signed, before)
    target = target_of(release, node_id(settings), settings.node.metadata)
    keep = frozenset(one.digest for one in (release.current, release.previous) if one is not None)
    candidate = release.current if target is not release.current else None
    if before is not None and target.digest == before.digest:
        offer = Offer(before.digest, before.revision, before.order, release.sequence, keep)
        return _signed_by(signed, before, replace(offer, candidate=candidate))
    bundle, archive = await bundle_of(settings, target, store)
    order = bundle.manifest.sequence or 0
    offer = Offer(bundle.digest, target.revision, order, release.sequence, keep, new=(bundle, archive))
    return _signed_by(signed, before, replace(offer, candidate=candidate))


def _signed_by(signed: SignedRelease, before: Accepted | None, offer: Offer) -> Offer:
    """Return an offer with what the signature of the release says, which vouches for the bundle.

    An earlier signature of the release that is known changes nothing: it may have a later end, or none.
    """
    if before is not None and signed.digest == before.content and not _is_later(signed.issued_at, before):
        return replace(
            offer, content=before.content, issued_at=before.issued_at, expires_at=before.expires_at
        )
    return replace(offer, content=signed.digest, issued_at=signed.issued_at, expires_at=signed.expires_at)


async def bundle_of(settings: BundleSettings, target: Target, store: BundleStore) -> tuple[Bundle, bytes]:
    """Return the bundle that a release names, and its archive. Raises as `offer_of`.

    The release vouches for it now, so an old bundle to go back to may have expired.
    """
    archive = await _archive(settings, target, store)
    bundle, _ = await asyncio.to_thread(_verified, settings, archive, None)
    if (bundle.digest, bundle.manifest.revision) != (target.digest, target.revision):
        raise BundleError(Fault.BAD_SIGNATURE, f"{target.url} is not the bundle that the release names")
    return bundle, archive


async def _archive(settings: BundleSettings, target: Target, store: BundleStore) -> bytes:
    """Return the archive of a target: fetched, unless the disk has it undamaged, as for a rollback."""
    kept = await asyncio.to_thread(store.archive, target.digest)
    if kept is not None and hashlib.sha256(kept).hexdigest() == target.digest:
        return kept
    server = settings.model_copy(update={"url": urljoin(settings.url, target.url)})
    fetched = await fetch(server, max_bytes=settings.max_bytes)
    return fetched.body or b""


def node_id(settings: BundleSettings) -> str:
    """Return the name of this edge."""
    return settings.node.id or socket.gethostname()


def bounds_of(settings: BundleSettings) -> Bounds:
    """Return the bounds of bundles that the settings name."""
    return Bounds(settings.max_bytes, settings.max_unpacked_bytes, settings.max_files)


def trust_of(settings: BundleSettings) -> Trust:
    """Return whose bundles are used. Blocks on the disk; raises ConfigError for a key that cannot be read."""
    return Trust(public_keys(settings.keys), settings.scope, settings.signature_required)


def _verified(settings: BundleSettings, archive: bytes, now: float | None) -> tuple[Bundle, Signature | None]:
    with background_work():
        bundle = read_bundle(archive, bounds_of(settings))
        return bundle, trust_of(settings).check(bundle, now)


def _verified_release(settings: BundleSettings, body: bytes, now: float) -> SignedRelease:
    return verify_signed(body, public_keys(settings.keys), now)


def _check_release(signed: SignedRelease, before: Accepted | None) -> None:
    """Raise BundleError for a release file that does not follow the one that is known."""
    if before is None or signed.release.sequence > before.release:
        return
    sequence = signed.release.sequence
    if sequence < before.release:
        text = f"the release has the sequence {sequence}, lower than {before.release}, which is known"
        raise BundleError(Fault.OLDER, text)
    if before.content and signed.digest != before.content:
        text = f"the release has the sequence {sequence}, which is known, but other content"
        raise BundleError(Fault.OLDER, text)


def _is_later(issued_at: float | None, before: Accepted) -> bool:
    """Return whether a signature is as late as that in service; servers behind one name may have both.

    One that does not say when it was made may be an old one that is replayed.
    """
    return before.issued_at is None or (issued_at is not None and issued_at >= before.issued_at)


def _check_order(order: int, before: Accepted | None) -> None:
    """Raise BundleError for a bundle that does not follow the one in service."""
    if before is None or order > before.order:
        return
    if order == before.order:
        text = f"it has the sequence {order} of revision {before.revision}, which serves, but other content"
        raise BundleError(Fault.OLDER, text)
    text = f"its sequence {order} is lower than {before.order} of revision {before.revision}, which serves"
    raise BundleError(Fault.OLDER, text)
