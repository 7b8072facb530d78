"""The private key of the JWT bearer flow: Salesforce takes RS256 alone, and so each other kind is named."""

from __future__ import annotations

import base64
import binascii
import re
import warnings

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sync.config.values import wrong

LEAST_BITS = 2048  # Salesforce refuses certificates of shorter keys, and RFC 7518 asks for as many
MAKE = "make one that fits: openssl genrsa -out key.pem 2048"
# The object identifier of RSASSA-PSS in DER. cryptography drops the restriction and shows a plain RSA key.
PSS = bytes.fromhex("06092a864886f70d01010a")
FORMS = "give the unencrypted PEM, the PEM with \\n for line ends, or its base64"
# What a PEM says that it is, where that is no key to sign with.
OTHERS = {
    "CERTIFICATE": "is a certificate; give the private key that it was made with",
    "PUBLIC KEY": "is a public key; give the private key that belongs to it",
    "RSA PUBLIC KEY": "is a public key; give the private key that belongs to it",
    "CERTIFICATE REQUEST": "is a certificate request; give the private key that it was made with",
    "OPENSSH PRIVATE KEY": f"is a key in OpenSSH's own format; {MAKE}",
    "EC PRIVATE KEY": f"is an EC key, and Salesforce takes RSA alone; {MAKE}",
    "DSA PRIVATE KEY": f"is a DSA key, and Salesforce takes RSA alone; {MAKE}",
}
ENCRYPTED = "is encrypted; give it without its passphrase: openssl rsa -in key.pem -out plain.pem"


def check_signing_key(pem: str) -> None:
    """Refuse as a wrong setting whatever RS256 cannot be signed with, and whatever the libraries warn of."""
    label = pem_label(pem).removeprefix("TRUSTED ")
    if label == "ENCRYPTED PRIVATE KEY" or "Proc-Type: 4,ENCRYPTED" in pem:
        raise wrong(ENCRYPTED)
    if label in OTHERS:
        raise wrong(OTHERS[label])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            key = load_pem_private_key(pem.encode(), password=None)
        except Warning as warning:
            raise wrong(f"is a key that the library warns of ({type(warning).__name__}); {MAKE}") from None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise wrong(f"is no readable private key; {FORMS}") from None
        if not isinstance(key, RSAPrivateKey):
            kind = type(key).__name__.lstrip("_").removesuffix("PrivateKey")
            raise wrong(f"is a key of kind {kind}, and Salesforce takes RSA alone; {MAKE}")
        if PSS in der(pem)[:64]:
            raise wrong(f"is an RSA-PSS key, which may not sign RS256, the one that Salesforce takes; {MAKE}")
        if key.key_size < LEAST_BITS:
            raise wrong(f"has {key.key_size:,} bits, and at least {LEAST_BITS:,} are needed; {MAKE}")
        try:
            jwt.encode({}, pem, algorithm="RS256")
        except (Warning, jwt.PyJWTError, ValueError, TypeError) as problem:
            raise wrong(f"cannot sign ({type(problem).__name__}); {MAKE}") from None


def pem_label(pem: str) -> str:
    """What a PEM says that it is: `PRIVATE KEY`, `RSA PRIVATE KEY`, `CERTIFICATE`; "" where it is none."""
    found = re.search(r"-----BEGIN ([A-Z0-9 ]+)-----", pem)
    return found[1] if found else ""


def der(pem: str) -> bytes:
    """The bytes in a PEM; none where it has no body."""
    body = re.sub(r"-----[^-]+-----", "", pem)
    try:
        return base64.b64decode("".join(body.split()))
    except (binascii.Error, ValueError):
        return b""
