"""The token endpoint, the life of tokens, and who they say they belong to."""

import time
from typing import Any

import jwt
import pytest
import requests

from sync.simulator import Simulator
from tests.simulator.conftest import Client

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def token(simulator: Simulator, host: str | None = None, **form: str) -> requests.Response:
    with requests.Session() as http:
        http.trust_env = False
        http.verify = simulator.ca_file
        return http.post(f"{host or simulator.url}/services/oauth2/token", data=form, timeout=10)


def client_form(simulator: Simulator) -> dict[str, str]:
    known = simulator.credentials
    return {"client_id": known.client_id, "client_secret": known.client_secret}


def assertion(simulator: Simulator, algorithm: str = "RS256", **changes: Any) -> str:
    known = simulator.credentials
    claims = {
        "iss": known.client_id,
        "sub": known.username,
        "aud": "https://login.salesforce.com",
        "exp": str(int(time.time()) + 180),
    }
    key = known.private_key_pem if algorithm == "RS256" else "a secret that is long enough for HMAC signing"
    return jwt.encode(claims | changes, key, algorithm=algorithm)


def test_client_credentials_answer(simulator: Simulator) -> None:
    """The client credentials flow answers the fields Salesforce documents, and no expires_in."""
    answer = token(simulator, grant_type="client_credentials", **client_form(simulator))
    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert set(body) == {
        "access_token",
        "signature",
        "instance_url",
        "id",
        "token_type",
        "issued_at",
        "scope",
    }
    assert body["instance_url"] == simulator.url
    assert body["access_token"].startswith(simulator.org.organization_id[:15] + "!")
    assert body["issued_at"].isdecimal()
    assert len(body["issued_at"]) == 13
    assert body["id"].endswith(f"/id/{simulator.org.organization_id}/{simulator.org.user_id}")


def test_client_credentials_only_on_my_domain(simulator: Simulator) -> None:
    """The login host refuses client credentials, as login.salesforce.com does."""
    answer = token(simulator, simulator.login_url, grant_type="client_credentials", **client_form(simulator))
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "invalid_grant",
        "error_description": "request not supported on this domain",
    }


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"client_id": "nobody"}, ("invalid_client_id", "client identifier invalid")),
        ({"client_secret": "wrong"}, ("invalid_client", "invalid client credentials")),
        ({"client_secret": "ä"}, ("invalid_client", "invalid client credentials")),
        ({"grant_type": "device"}, ("unsupported_grant_type", "grant type not supported")),
        (
            {"grant_type": "refresh_token", "refresh_token": "x"},
            ("invalid_grant", "expired access/refresh token"),
        ),
        ({"grant_type": JWT_GRANT, "assertion": "x"}, ("invalid_grant", "invalid assertion")),
        (
            {"grant_type": "password", "username": "x", "password": "y"},
            ("invalid_grant", "authentication failure"),
        ),
    ],
)
def test_token_refusals(simulator: Simulator, form: dict[str, str], error: tuple[str, str]) -> None:
    """A wrong token request answers 400 with an object that names the mistake."""
    answer = token(simulator, **{"grant_type": "client_credentials", **client_form(simulator), **form})
    assert answer.status_code == 400
    assert answer.json() == {"error": error[0], "error_description": error[1]}


def test_no_run_as_user(simulator: Simulator) -> None:
    """Without a Run As user the client credentials flow says so."""
    simulator.options.run_as_user = False
    answer = token(simulator, grant_type="client_credentials", **client_form(simulator))
    assert answer.json()["error_description"] == "no client credentials user enabled"


def test_jwt_bearer(simulator: Simulator) -> None:
    """A signed assertion logs in on either host, its exp a string or a number, its aud any known host."""
    for host in (simulator.url, simulator.login_url):
        for change in (
            {},
            {"aud": host},
            {"exp": int(time.time()) + 60},
            {"aud": "https://test.salesforce.com"},
        ):
            answer = token(simulator, host, grant_type=JWT_GRANT, assertion=assertion(simulator, **change))
            assert answer.status_code == 200, answer.text
            assert answer.json()["instance_url"] == simulator.url


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"aud": "https://example.com"}, ("invalid_grant", "audience is invalid")),
        ({"exp": int(time.time()) - 600}, ("invalid_grant", "expired authorization code")),
        ({"exp": int(time.time()) + 86400}, ("invalid_grant", "invalid assertion")),
        ({"exp": "nan"}, ("invalid_grant", "invalid assertion")),
        ({"exp": "soon"}, ("invalid_grant", "invalid assertion")),
        ({"iss": "somebody"}, ("invalid_client_id", "client identifier invalid")),
        ({"sub": "stranger@example.com"}, ("invalid_grant", "user hasn't approved this consumer")),
        ({"algorithm": "HS256"}, ("invalid_grant", "invalid assertion")),
    ],
)
def test_jwt_refusals(simulator: Simulator, changes: dict[str, Any], error: tuple[str, str]) -> None:
    """An assertion with a wrong claim or signature is refused in Salesforce's words."""
    answer = token(simulator, grant_type=JWT_GRANT, assertion=assertion(simulator, **changes))
    assert answer.status_code == 400
    assert (answer.json()["error"], answer.json()["error_description"]) == error


def test_password_needs_the_security_token(simulator: Simulator) -> None:
    """The password flow wants password and security token joined, and names no scope."""
    known = simulator.credentials
    form = {"grant_type": "password", "username": known.username, **client_form(simulator)}
    assert token(simulator, password=known.password, **form).status_code == 400
    body = token(
        simulator, simulator.login_url, password=known.password + known.security_token, **form
    ).json()
    assert "scope" not in body
    assert "refresh_token" not in body


def test_bad_sessions(client: Client) -> None:
    """A missing, unknown, malformed or JWT-shaped dead token gets the 401 body of its kind."""
    cases = {
        "Bearer nonsense": ("INVALID_SESSION_ID", "Session expired or invalid"),
        "Bearer eyJa.b.c": ("INVALID_AUTH_HEADER", "INVALID_JWT_FORMAT"),
        "Basic abc": ("INVALID_AUTH_HEADER", "INVALID_HEADER_TYPE"),
    }
    for header, (code, message) in cases.items():
        answer = client.get("limits", headers={"Authorization": header})
        assert answer.status_code == 401
        assert answer.json() == [{"message": message, "errorCode": code}]
    client.token = ""
    assert client.get("limits").json()[0]["errorCode"] == "INVALID_SESSION_ID"


def test_session_slides_and_expires(client: Client) -> None:
    """Each call renews a session; two idle hours end it."""
    clock = client.simulator.clock
    for _ in range(3):
        clock.advance(7000)
        assert client.get("limits").status_code == 200
    clock.advance(7300)
    assert client.get("limits").status_code == 401


def test_jwt_format_tokens(simulator: Simulator) -> None:
    """An org that issues JWT access tokens answers INVALID_JWT_FORMAT when they expire."""
    simulator.options.token_format = "jwt"
    client = Client(simulator)
    assert client.login().startswith("eyJ")
    assert client.get("limits").status_code == 200
    simulator.clock.advance(8000)
    assert client.get("limits").json() == [
        {"message": "INVALID_JWT_FORMAT", "errorCode": "INVALID_AUTH_HEADER"}
    ]
    client.http.close()


def test_revoke_introspect_userinfo(client: Client) -> None:
    """Introspection and userinfo tell whose token it is; after revocation neither does."""
    simulator = client.simulator
    form = {"token": client.token, **client_form(simulator)}
    bearer = {"Authorization": f"Bearer {client.token}"}

    def post(name: str) -> requests.Response:
        return client.http.post(f"{simulator.url}/services/oauth2/{name}", data=form, timeout=10)

    told = post("introspect").json()
    assert told["active"] is True
    assert told["exp"] > time.time()
    info = client.get("/services/oauth2/userinfo", headers=bearer).json()
    assert info["organization_id"] == simulator.org.organization_id
    assert client.get(told["sub"].removeprefix(simulator.login_url), headers=bearer).json() == info
    assert post("revoke").status_code == 200
    assert post("introspect").json() == {"active": False}
    assert post("revoke").json()["error"] == "unsupported_token_type"
    dead = client.get("/services/oauth2/userinfo", headers=bearer)
    assert (dead.status_code, dead.text) == (403, "Bad_OAuth_Token")
    assert client.get("limits").status_code == 401


def test_revoke_tokens_ends_every_session(client: Client) -> None:
    """The test's own revocation kills sessions in the middle of a run."""
    client.simulator.revoke_tokens()
    assert client.get("limits").json()[0]["errorCode"] == "INVALID_SESSION_ID"
    client.login()
    assert client.get("limits").status_code == 200


def test_login_rate(client: Client) -> None:
    """Too many logins within an hour are refused, until the hour is over."""
    client.simulator.options.login_limit = 2
    client.login()
    answer = token(client.simulator, grant_type="client_credentials", **client_form(client.simulator))
    assert (answer.status_code, answer.json()["error_description"]) == (400, "rate limit exceeded")
    client.simulator.clock.advance(3601)
    client.login()


def test_environment_of_each_flow(simulator: Simulator) -> None:
    """Every flow's settings are complete; an unknown flow is an error."""
    for flow in ("client_credentials", "jwt", "password"):
        settings = simulator.environment(flow)
        assert settings["REQUESTS_CA_BUNDLE"] == simulator.ca_file
        assert {"SALESFORCE_LOGIN_URL", "SALESFORCE_CLIENT_ID"} < set(settings)
    with pytest.raises(ValueError, match="no login flow"):
        simulator.environment("saml")
