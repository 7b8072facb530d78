"""The OAuth endpoints: token (four grants), introspect, revoke, userinfo and the identity address."""

import base64
import binascii
import secrets
from typing import Any
from urllib.parse import parse_qsl

import jwt

from sync.simulator.clock import Clock
from sync.simulator.options import Options
from sync.simulator.sessions import Session, Sessions
from sync.simulator.wire import JSON, Answer, Call, Refusal, json_answer

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
MY_DOMAIN_HOST = "localhost"
SKEW = 180.0  # seconds of clock difference that Salesforce forgives
FARTHEST_EXPIRY = 300.0 + SKEW  # an assertion that lives longer is refused


def _refuse(code: str, description: str) -> Refusal:
    return Refusal(json_answer({"error": code, "error_description": description}, 400))


class OAuth:
    """Answers /services/oauth2 and /id; knows the host a request came to."""

    def __init__(self, sessions: Sessions, options: Options, clock: Clock, url: str, login_url: str) -> None:
        self._sessions = sessions
        self._options = options
        self._clock = clock
        self._url = url
        self._login_url = login_url
        self._logins: list[float] = []
        self._audiences = {"https://login.salesforce.com", "https://test.salesforce.com", url, login_url}

    @property
    def identity(self) -> str:
        return f"{self._login_url}/id/{self._sessions.organization_id}/{self._sessions.user_id}"

    def token(self, call: Call) -> Answer:
        self._check_login_rate()
        form = dict(parse_qsl(call.body.decode("utf-8", "replace"), keep_blank_values=True))
        grant = form.get("grant_type", "")
        if grant == "client_credentials":
            session = self._client_credentials(call, form)
        elif grant == JWT_GRANT:
            session = self._jwt_bearer(form)
        elif grant == "password":
            session = self._password(call, form)
        elif grant == "refresh_token":
            session = self._refresh(call, form)
        else:
            raise _refuse("unsupported_grant_type", "grant type not supported")
        return self._granted(session)

    def _check_login_rate(self) -> None:
        """Every token request is a login, and a user has so many an hour."""
        now = self._clock.now().timestamp()
        self._logins = [at for at in self._logins if at > now - 3600] + [now]
        if len(self._logins) > self._options.login_limit:
            raise _refuse("invalid_grant", "rate limit exceeded")

    def _granted(self, session: Session) -> Answer:
        issued_at = str(int(session.issued_at * 1000))
        body: dict[str, Any] = {
            "access_token": session.token,
            "signature": self._sessions.signature(self.identity, issued_at),
            "instance_url": self._url,
            "id": self.identity,
            "token_type": "Bearer",
            "issued_at": issued_at,
        }
        if session.scope is not None:
            body["scope"] = session.scope
        if session.jwt_format:
            body["token_format"] = "jwt"  # noqa: S105  a format's name
        answer = json_answer(body)
        answer.headers += [("Cache-Control", "no-store"), ("Pragma", "no-cache")]
        return answer

    def _client_credentials(self, call: Call, form: dict[str, str]) -> Session:
        if call.host != MY_DOMAIN_HOST:
            raise _refuse("invalid_grant", "request not supported on this domain")
        self._check_client(call, form)
        if not self._options.run_as_user:
            raise _refuse("invalid_grant", "no client credentials user enabled")
        self._check_user()
        return self._sessions.issue("client_credentials", "api")

    def _check_client(self, call: Call, form: dict[str, str], secret_required: bool = True) -> None:
        client_id, secret = form.get("client_id", ""), form.get("client_secret")
        scheme, _, encoded = call.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                raise _refuse("invalid_client", "invalid client credentials") from None
        known = self._sessions.credentials
        if client_id != known.client_id:
            raise _refuse("invalid_client_id", "client identifier invalid")
        if secret is None and not secret_required:
            return
        if not secrets.compare_digest((secret or "").encode(), known.client_secret.encode()):
            raise _refuse("invalid_client", "invalid client credentials")

    def _check_user(self) -> None:
        if not self._options.user_active:
            raise _refuse("invalid_grant", "inactive user")

    def _jwt_bearer(self, form: dict[str, str]) -> Session:
        known = self._sessions.credentials
        assertion = form.get("assertion", "")
        try:
            unverified = jwt.decode(assertion, options={"verify_signature": False})
        except jwt.PyJWTError:
            raise _refuse("invalid_grant", "invalid assertion") from None
        if unverified.get("iss") != known.client_id:
            raise _refuse("invalid_client_id", "client identifier invalid")
        try:
            # Signature only: the claims are judged below, by the org's clock and with Salesforce's words.
            jwt.api_jws.decode(assertion, known.public_key, algorithms=["RS256"])
        except jwt.PyJWTError:
            raise _refuse("invalid_grant", "invalid assertion") from None
        self._check_claims(unverified)
        self._check_user()
        return self._sessions.issue("jwt", "api id")

    def _check_claims(self, claims: dict[str, Any]) -> None:
        audience = claims.get("aud")
        audiences = set(audience) if isinstance(audience, list) else {audience}
        if not {str(each).rstrip("/") for each in audiences} & self._audiences:
            raise _refuse("invalid_grant", "audience is invalid")
        try:
            expiry = float(claims["exp"])  # a number, or a string with one
        except (KeyError, TypeError, ValueError):
            raise _refuse("invalid_grant", "invalid assertion") from None
        now = self._clock.now().timestamp()
        if expiry < now - SKEW:
            raise _refuse("invalid_grant", "expired authorization code")
        if not expiry <= now + FARTHEST_EXPIRY:
            raise _refuse("invalid_grant", "invalid assertion")
        user = claims.get("prn", claims.get("sub"))
        if str(user).casefold() != self._sessions.credentials.username:
            raise _refuse("invalid_grant", "user hasn't approved this consumer")

    def _password(self, call: Call, form: dict[str, str]) -> Session:
        self._check_client(call, form)
        known = self._sessions.credentials
        accepted = {known.password + known.security_token}
        if not self._options.security_token_required:
            accepted.add(known.password)
        if form.get("username", "").casefold() != known.username or form.get("password") not in accepted:
            raise _refuse("invalid_grant", "authentication failure")
        self._check_user()
        return self._sessions.issue("password", None)  # old password answers name no scope

    def _refresh(self, call: Call, form: dict[str, str]) -> Session:
        self._check_client(call, form, secret_required=False)
        following = self._sessions.refresh(form.get("refresh_token", ""))
        if following is None:
            raise _refuse("invalid_grant", "expired access/refresh token")
        self._check_user()
        return self._sessions.issue("refresh_token", "refresh_token api", following)

    # --- the life of a token

    def introspect(self, call: Call) -> Answer:
        form = dict(parse_qsl(call.body.decode("utf-8", "replace")))
        self._check_client(call, form)
        return json_answer(self._sessions.introspection(form.get("token", ""), self.identity))

    def revoke(self, call: Call) -> Answer:
        form = {**call.params, **dict(parse_qsl(call.body.decode("utf-8", "replace")))}
        if not self._sessions.revoke(form.get("token", "")):
            raise _refuse("unsupported_token_type", "this token type is not supported")
        return Answer(200, b"", JSON)

    def userinfo(self, call: Call) -> Answer:
        """Who the token belongs to; a bad token gets plain text, not JSON."""
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or self._sessions.use(token) is None:
            return Answer(403, b"Bad_OAuth_Token", "text/html;charset=UTF-8")
        username = self._sessions.credentials.username
        return json_answer(
            {
                "sub": self.identity,
                "id": self.identity,
                "asserted_user": True,
                "user_id": self._sessions.user_id,
                "organization_id": self._sessions.organization_id,
                "preferred_username": username,
                "username": username,
                "name": "Integration User",
                "display_name": "Integration User",
                "email": username,
                "active": True,
                "user_type": "STANDARD",
                "urls": {"rest": f"{self._url}/services/data/v{{version}}/", "custom_domain": self._url},
            }
        )
