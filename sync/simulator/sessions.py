"""Who may log in, and the tokens that were issued: their format, their sliding life, their end."""

import base64
import hashlib
import hmac
import random
import string
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sync.simulator.clock import Clock
from sync.simulator.objects.staff import USERNAME
from sync.simulator.options import Options

_TOKEN_LETTERS = string.ascii_letters + string.digits + "._"


@lru_cache(maxsize=1)
def _key() -> rsa.RSAPrivateKey:
    # One key for the process: generating costs a tenth of a second, and every test starts a simulator.
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass(frozen=True)
class Credentials:
    """The one connected app and the one integration user."""

    client_id: str
    client_secret: str
    username: str
    password: str
    security_token: str

    @property
    def private_key_pem(self) -> str:
        return (
            _key()
            .private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            .decode()
        )

    @property
    def public_key(self) -> rsa.RSAPublicKey:
        return _key().public_key()


def credentials(seed: int | None = None) -> Credentials:
    """New credentials, which nobody can guess; the same ones for the same seed, where one is given."""
    draw = random.SystemRandom() if seed is None else random.Random(f"credentials {seed}")

    def word(size: int) -> str:
        return "".join(draw.choices(string.ascii_letters + string.digits, k=size))

    return Credentials(
        client_id="3MVG9" + word(80),
        client_secret=word(64).upper(),
        username=USERNAME,
        password="Pa5s'" + word(12),
        security_token=word(24),
    )


@dataclass
class Session:
    """One issued access token."""

    token: str
    issued_at: float
    expires: float
    flow: str
    scope: str | None
    jwt_format: bool
    refresh_token: str | None = None
    ended: bool = field(default=False)


class Sessions:
    """Issues, renews, judges and revokes tokens, by the org's clock."""

    def __init__(
        self, clock: Clock, options: Options, organization_id: str, user_id: str, seed: int | None = None
    ) -> None:
        self._clock = clock
        self._options = options
        self.organization_id = organization_id
        self.user_id = user_id
        self.credentials = credentials(seed)
        self._draw = random.SystemRandom() if seed is None else random.Random(f"tokens {seed}")
        self._sessions: dict[str, Session] = {}
        self._refresh_tokens: set[str] = set()
        self._spent_refresh_tokens: set[str] = set()

    def issue(self, flow: str, scope: str | None, refresh_token: str | None = None) -> Session:
        now = self._clock.now().timestamp()
        jwt_format = self._options.token_format == "jwt"  # noqa: S105  a format's name
        token = self._jwt_token(now) if jwt_format else self._opaque_token()
        session = Session(token, now, now + self._options.token_ttl, flow, scope, jwt_format, refresh_token)
        self._sessions[token] = session
        return session

    def _opaque_token(self) -> str:
        return f"{self.organization_id[:15]}!AQ" + "".join(self._draw.choices(_TOKEN_LETTERS, k=94))

    def _jwt_token(self, now: float) -> str:
        claims = {
            "sub": f"uid:{self.user_id}",
            "iss": "https://simulator.example",
            "exp": int(now + self._options.token_ttl),
            "jti": "".join(self._draw.choices(_TOKEN_LETTERS, k=20)),
        }
        return jwt.encode(
            claims, _key(), algorithm="RS256", headers={"kid": "1", "tnk": self.organization_id}
        )

    def find(self, token: str) -> Session | None:
        """A living session; looking does not renew it."""
        session = self._sessions.get(token)
        if session is None or session.ended or self._clock.now().timestamp() >= session.expires:
            return None
        return session

    def use(self, token: str) -> Session | None:
        """A living session, its life extended by this call; JWT tokens keep the expiry they carry."""
        session = self.find(token)
        if session is not None and not session.jwt_format:
            session.expires = self._clock.now().timestamp() + self._options.token_ttl
        return session

    def revoke(self, token: str) -> bool:
        """End a session, or all that came from a refresh token; False when the token is unknown."""
        if token in self._refresh_tokens:
            self._refresh_tokens.discard(token)
            for session in self._sessions.values():
                session.ended |= session.refresh_token == token
            return True
        session_ = self._sessions.get(token)
        if session_ is None or session_.ended:
            return False
        session_.ended = True
        return True

    def revoke_all(self) -> None:
        for session in list(self._sessions.values()):
            session.ended = True

    def new_refresh_token(self) -> str:
        token = "5Aep861" + "".join(self._draw.choices(_TOKEN_LETTERS, k=80))
        self._refresh_tokens.add(token)
        return token

    def refresh(self, token: str) -> str | None:
        """Accept a refresh token, return the one to use next, or None; a replay revokes its successors."""
        if token in self._spent_refresh_tokens:
            self._refresh_tokens.clear()
            self.revoke_all()
            return None
        if token not in self._refresh_tokens:
            return None
        if not self._options.refresh_rotation:
            return token
        self._refresh_tokens.discard(token)
        self._spent_refresh_tokens.add(token)
        return self.new_refresh_token()

    def signature(self, identity: str, issued_at: str) -> str:
        secret = self.credentials.client_secret.encode()
        return base64.b64encode(
            hmac.new(secret, (identity + issued_at).encode(), hashlib.sha256).digest()
        ).decode()

    def introspection(self, token: str, identity: str) -> dict[str, Any]:
        session = self.find(token)
        if session is None:
            return {"active": False}
        return {
            "active": True,
            "scope": session.scope or "api",
            "client_id": self.credentials.client_id,
            "username": self.credentials.username,
            "sub": identity,
            "token_type": "access_token",
            "exp": int(session.expires),
            "iat": int(session.issued_at),
            "nbf": int(session.issued_at),
        }
