"""Credentials in the settings and around them: keys that can sign, proxies, and where libpq really connects."""

from __future__ import annotations

import base64
import os
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import psycopg2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from pydantic_core import PydanticCustomError

from sync.config import keys
from sync.config.keys import REMEDY, check_signing_key
from sync.config.settings import load_settings, settings_from

GIVEN = {
    "DATABASE_URL": "postgres://app:db-pass-word@db.example.com/customers",
    "SALESFORCE_LOGIN_URL": "https://acme.my.salesforce.com",
    "SALESFORCE_CLIENT_ID": "client",
    "SALESFORCE_CLIENT_SECRET": "client-secret-value",
}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own."""
    for name in list(os.environ):
        if name.startswith("PG") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem(key: Any, form: str = "PKCS8", password: bytes | None = None) -> str:
    lock: Any = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    written: bytes = key.private_bytes(
        serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), lock
    )
    return written.decode()


def restricted(key: rsa.RSAPrivateKey) -> str:
    """The same key as RSASSA-PSS, as `openssl genpkey -algorithm rsa-pss` writes it."""
    plain = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    rsa_encryption = bytes.fromhex("300d06092a864886f70d0101010500")
    assert rsa_encryption in plain[:40]
    body = plain[plain.index(rsa_encryption) + len(rsa_encryption) :]
    inner = bytes.fromhex("020100300b06092a864886f70d01010a") + body
    outer = b"\x30\x82" + len(inner).to_bytes(2, "big") + inner
    text = base64.encodebytes(outer).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{text}-----END PRIVATE KEY-----\n"


SHORT = 1024
REFUSED: dict[str, tuple[Callable[[rsa.RSAPrivateKey], str], str]] = {
    "short": (lambda _: pem(rsa.generate_private_key(65537, SHORT)), "has 1,024 bits, and at least 2,048"),
    "pss": (restricted, "is an RSA-PSS key, and Salesforce takes RS256 alone"),
    "ec": (lambda _: pem(ec.generate_private_key(ec.SECP256R1())), "kind EC, and Salesforce takes RSA alone"),
    "old ec": (
        lambda _: pem(ec.generate_private_key(ec.SECP256R1()), "TraditionalOpenSSL"),
        "is an EC key, and Salesforce takes RSA alone",
    ),
    "ed25519": (lambda _: pem(ed25519.Ed25519PrivateKey.generate()), "kind Ed25519, and .* takes RSA alone"),
    "dsa": (lambda _: pem(dsa.generate_private_key(SHORT)), "kind DSA, and Salesforce takes RSA alone"),
    "openssh": (lambda key: pem(key, "OpenSSH"), "OpenSSH's own format"),
    "encrypted": (
        lambda key: pem(key, password=b"x"),
        "is encrypted; .* openssl rsa -in key.pem -out plain.pem",
    ),
    "old encrypted": (lambda key: pem(key, "TraditionalOpenSSL", b"x"), "is encrypted"),
    "certificate": (
        lambda _: "-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n",
        "a certificate",
    ),
    "public": (
        lambda key: (
            key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        ),
        "is a public key; give the private key",
    ),
    "old public": (
        lambda key: (
            key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
            .decode()
        ),
        "is a public key; give the private key",
    ),
    "nothing": (lambda _: "nonsense", "is no readable private key"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_keys_that_cannot_sign_are_refused(name: str, key: rsa.RSAPrivateKey) -> None:
    """Whatever Salesforce's RS256 cannot be signed with is refused at start, with what it is."""
    make, reason = REFUSED[name]
    with pytest.raises(PydanticCustomError, match=reason) as refused:
        check_signing_key(make(key))
    assert not [
        line for line in make(key).splitlines()[1:-1] if len(line) > 20 and line in str(refused.value)
    ]


def test_keys_that_can_sign_are_taken(key: rsa.RSAPrivateKey) -> None:
    """RSA of 2,048 bits, in the format of today and of former times."""
    check_signing_key(pem(key))
    check_signing_key(pem(key, "TraditionalOpenSSL"))


def test_a_wrong_key_ends_the_start(key: rsa.RSAPrivateKey) -> None:
    """It is a wrong setting like others: exit 3, with the setting's name."""
    given = GIVEN | {"SALESFORCE_USERNAME": "u", "SALESFORCE_PRIVATE_KEY": restricted(key)}
    del given["SALESFORCE_CLIENT_SECRET"]
    with pytest.raises(ValueError, match="RSA-PSS"):
        settings_from(given)


@pytest.mark.parametrize("where", ["load_pem_private_key", "jwt"])
def test_warnings_of_the_libraries_are_errors(
    key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """What cryptography or PyJWT warns of today they refuse tomorrow: it is refused at start."""

    def warn(*_: Any, **__: Any) -> None:
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)

    if where == "jwt":
        monkeypatch.setattr(jwt, "encode", warn)
    else:
        monkeypatch.setattr(keys, where, warn)
    with pytest.raises(PydanticCustomError, match=r"DeprecationWarning.*openssl genrsa"):
        check_signing_key(pem(key))


def test_the_remedy_works_when_typed(tmp_path: Path) -> None:
    """The command that the refusals name makes a key that is taken."""
    command = REMEDY.partition(": ")[2]
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    check_signing_key((tmp_path / "key.pem").read_text())


# ── proxies ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
)
@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("http://me:pr%40xy-pass@proxy:3128", {"pr%40xy-pass", "pr@xy-pass", "me:pr@xy-pass"}),
        ("me:proxy-pass@proxy:3128", {"proxy-pass", "me:proxy-pass"}),
        ("http://t0ken-alone@proxy:3128", {"t0ken-alone"}),
        ("http://t0ken-alone:@proxy:3128", {"t0ken-alone"}),
        ("http://me:p@ss@proxy", {"p@ss", "me:p@ss"}),
        ("http://proxy:3128", set()),
        ("http://[broken", set()),
        ("http://me:pa/ss#word@proxy", {"pa/ss#word", "word"}),
    ],
)
def test_proxy_credentials_are_secrets(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, wanted: set[str]
) -> None:
    """What requests sends to a proxy is never printed: it is among the settings' secrets."""
    monkeypatch.setenv(name, value)
    known = set(settings_from(GIVEN).secrets)
    assert known >= wanted | {"db-pass-word", "client-secret-value"}
    assert bool(known - {"db-pass-word", "client-secret-value", GIVEN["DATABASE_URL"]}) == bool(wanted)


def test_passwords_beside_the_url_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq takes a password from the URL's parameters and from PGPASSWORD, too."""
    monkeypatch.setenv("PGPASSWORD", "pg-pass-word")
    url = "postgres:///x?password=query-pass-word&sslpassword=key-pass-word"
    known = settings_from(GIVEN | {"DATABASE_URL": url}).secrets
    assert {"pg-pass-word", "query-pass-word", "key-pass-word"} <= set(known)


# ── where libpq connects ──────────────────────────────────────────────────────────────────────────────


def mode(url: str) -> object:
    """The sslmode that we add to a database URL, if any."""
    return settings_from(GIVEN | {"DATABASE_URL": url}).postgres.query.get("sslmode")


@pytest.mark.parametrize(
    ("url", "environment", "wanted"),
    [
        # hostaddr decides where it connects, host only names
        ("postgres://u@localhost/x?hostaddr=203.0.113.9", {}, "require"),
        ("postgres://u@db.example.com/x?hostaddr=127.0.0.1", {}, None),
        ("postgres://u@localhost/x", {"PGHOSTADDR": "203.0.113.9"}, "require"),
        ("postgres://u@db.example.com/x", {"PGHOSTADDR": "::1"}, None),
        ("postgres:///x?host=db.example.com,localhost&hostaddr=127.0.0.1,127.0.0.1", {}, None),
        ("postgres:///x?host=localhost,db.example.com&hostaddr=127.0.0.1,", {}, "require"),
        ("postgres:///x?hostaddr=127.0.0.1,203.0.113.9", {}, "require"),
        # no host: the environment's, else the socket
        ("postgres:///x", {"PGHOST": "db.example.com"}, "require"),
        ("postgres:///x", {"PGHOST": "/var/run/postgresql"}, None),
        ("postgres:///x", {"PGHOST": "localhost,db.example.com"}, "require"),
        ("postgres:///x", {"PGHOST": ""}, None),
        ("postgres:///x?host=/tmp", {"PGHOST": "db.example.com"}, None),
        ("postgres:///x?host=@abstract", {}, None),
        ("postgres:///x?host=localhost:5433", {}, None),
        ("postgres://localhost/x?host=db.example.com", {}, "require"),
        # a service may lead anywhere
        ("postgres:///x?service=prod", {}, "require"),
        ("postgres://localhost/x?service=prod", {}, "require"),
        ("postgres:///x", {"PGSERVICE": "prod"}, "require"),
        ("postgres:///x?service=secure", {}, None),
        ("postgres:///x", {"PGSERVICE": "secure"}, None),
        ("postgres:///x?service=prod&sslmode=disable", {}, "disable"),
    ],
)
def test_local_is_what_libpq_connects_to(
    url: str, environment: dict[str, str], wanted: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS is left out only where libpq's own rules lead to this machine, or where somebody decided about it."""
    services = tmp_path / "services.conf"
    services.write_text(
        "# ours\n[prod]\nhost=db.example.com\n\n[secure]\nhost=db.example.com\nsslmode=verify-full\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert mode(url) == wanted


def test_a_missing_service_file_requires_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the service cannot be read nobody has decided about TLS."""
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "none"))
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    assert mode("postgres:///x?service=prod") == "require"


def test_libpq_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq itself connects where we say that it does: to PGHOSTADDR, whatever host the URL names."""
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")
    with pytest.raises(psycopg2.OperationalError, match=r"127\.0\.0\.1"):
        psycopg2.connect("postgresql://u@db.invalid:9/x")


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR", "PGSERVICE"])
def test_env_file_does_not_lead_libpq(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq never sees `.env`: what stands there leads it nowhere, and us neither."""
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(f"{name}=db.example.com\n")
    for each, value in GIVEN.items():
        monkeypatch.setenv(each, value)
    monkeypatch.setenv("DATABASE_URL", "postgres:///x")
    assert "sslmode" not in load_settings().postgres.query
