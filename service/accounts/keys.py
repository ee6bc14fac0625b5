"""API keys: made once and shown once, kept as hashes, verified in constant time."""

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from service.accounts.scopes import TENANT_SCOPES, Scope
from service.ids import uuid7
from service.statements import Statement
from service.transaction import execute_alone, reading, transaction

KEY_START = "mr"
_WELL_FORMED = re.compile(rf"{KEY_START}_([a-z2-7]+)_([a-z2-7]+)")
_USED_AGAIN_AFTER_SECONDS = 60


@dataclass(frozen=True)
class Principal:
    """Who calls: the tenant, the credential, and what it may do."""

    tenant_id: UUID
    key_id: UUID
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        """Whether the credential carries the right; `admin` carries all of its own tenant's, but is no operator."""
        return scope in self.scopes or (Scope.ADMIN in self.scopes and scope is not Scope.OPERATOR)


@dataclass(frozen=True)
class NewKey:
    """A key that was just made: the only moment at which it can be read."""

    id: UUID
    key: str
    tenant_id: UUID
    tenant: str


_TENANT = text(
    """
    WITH made AS (INSERT INTO tenants (id, name) VALUES (:id, :name) ON CONFLICT (name) DO NOTHING RETURNING id)
    SELECT id FROM made UNION ALL SELECT id FROM tenants WHERE name = :name LIMIT 1
    """
)
_ADD = text(
    """
    INSERT INTO api_keys (id, tenant_id, name, prefix, secret_hash, scopes, expires_at)
    VALUES (:id, :tenant_id, :name, :prefix, :secret_hash, CAST(:scopes AS text[]), :expires_at)
    """
)


def create_key(
    tenant: str, *, name: str = "default", scopes: Sequence[Scope] = TENANT_SCOPES, expires_at: datetime | None = None
) -> NewKey:
    """Make a key for the tenant, and the tenant if there is none of that name.

    A key reads `mr_<prefix>_<secret>`: the prefix finds the row, the secret has 256 bits. Because of those, a plain
    SHA-256 is enough; a slow hash is for secrets that people choose.
    """
    key_id, prefix, secret = uuid7(), _letters(6), _letters(32)
    with transaction() as session:
        tenant_id = session.execute(_TENANT, {"id": uuid7(), "name": tenant}).scalar_one()
        session.execute(
            _ADD,
            {
                "id": key_id,
                "tenant_id": tenant_id,
                "name": name,
                "prefix": prefix,
                "secret_hash": _hash(secret),
                "scopes": [str(scope) for scope in scopes],
                "expires_at": expires_at,
            },
        )
    return NewKey(key_id, f"{KEY_START}_{prefix}_{secret}", tenant_id, tenant)


KEY_IS_GOOD = """(key_id IS NULL
          OR EXISTS (SELECT FROM api_keys
                      WHERE api_keys.id = key_id AND revoked_at IS NULL
                        AND (expires_at IS NULL OR expires_at > clock_timestamp())))"""
"""Goes into the statements of a caller whose key was verified a moment ago: revocation takes effect at once."""

_GOOD = text(f"SELECT {KEY_IS_GOOD} FROM (SELECT CAST(:key_id AS uuid) AS key_id) AS asked")  # noqa: S608


class KeyRefused(Exception):
    """The key was good a moment ago, and is expired or revoked now."""


def is_good_key(key_id: UUID) -> bool:
    """Whether the key, which was verified before, is neither revoked nor expired by now."""
    try:
        with reading() as session:
            require_good_key(session, key_id)
    except KeyRefused:
        return False
    return True


def require_good_key(session: Session, key_id: UUID) -> None:
    """Raises KeyRefused unless the key is good."""
    if not session.execute(_GOOD, {"key_id": key_id}).scalar_one():
        raise KeyRefused


_FIND = Statement(
    """
    SELECT id, tenant_id, secret_hash, scopes,
           last_used_at IS NULL OR last_used_at < clock_timestamp() - make_interval(secs => :seconds) AS is_use_news
      FROM api_keys
     WHERE prefix = :prefix AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
    """
)
_USED = text("UPDATE api_keys SET last_used_at = clock_timestamp() WHERE id = :id")


def verify_key(key: str) -> Principal | None:
    """Who the key belongs to; None for a key that is malformed, unknown, expired or revoked."""
    match = _WELL_FORMED.fullmatch(key)
    if match is None:
        return None
    prefix, secret = match.groups()
    rows = execute_alone(_FIND, {"prefix": prefix, "seconds": _USED_AGAIN_AFTER_SECONDS}, name="verify_key")
    row = rows[0] if rows else None
    if row is None or not hmac.compare_digest(bytes(row["secret_hash"]), _hash(secret)):
        return None
    if row["is_use_news"]:
        with transaction() as session:
            session.execute(_USED, {"id": row["id"]})
    return Principal(row["tenant_id"], row["id"], frozenset(row["scopes"]))


class KnownKeys:
    """The keys that this process verified lately, by their hashes.

    A caller of a known key is not a caller of a good one: whoever asks here asks the database in the same breath,
    with `KEY_IS_GOOD`.
    """

    def __init__(self, *, seconds: float = 60.0, at_most: int = 10_000) -> None:
        self._seconds = seconds
        self._at_most = at_most
        self._known: dict[bytes, tuple[Principal, float]] = {}

    def find(self, key: str) -> Principal | None:
        """Who the key belonged to a moment ago."""
        principal, until = self._known.get(_hash(key), (None, 0.0))
        return principal if time.monotonic() < until else None

    def add(self, key: str, principal: Principal) -> None:
        """Remember a key that was just verified."""
        if len(self._known) >= self._at_most:
            self._known.clear()
        self._known[_hash(key)] = (principal, time.monotonic() + self._seconds)


def list_keys(tenant: str) -> list[RowMapping]:
    """The tenant's keys, without their secrets."""
    statement = text(
        "SELECT api_keys.id, api_keys.name, prefix, scopes, api_keys.created_at, last_used_at, expires_at, revoked_at "
        "FROM api_keys JOIN tenants ON tenants.id = tenant_id WHERE tenants.name = :tenant ORDER BY api_keys.id"
    )
    with reading() as session:
        return list(session.execute(statement, {"tenant": tenant}).mappings())


def revoke_key(prefix: str) -> bool:
    """Make the key useless from the next request on. False: there is no such key, or it was revoked before."""
    statement = text(
        "UPDATE api_keys SET revoked_at = clock_timestamp() WHERE prefix = :prefix AND revoked_at IS NULL RETURNING id"
    )
    with transaction() as session:
        return session.execute(statement, {"prefix": prefix}).first() is not None


def _letters(size: int) -> str:
    """Random bytes in base32, lower case: no character that a shell, a URL or the key's own underscores mind."""
    return base64.b32encode(secrets.token_bytes(size)).decode().rstrip("=").lower()


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
