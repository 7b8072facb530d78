"""The private key of the JWT bearer flow, checked in advance: Salesforce accepts RS256 only."""

from __future__ import annotations

import base64
import binascii
import re
import warnings

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sync.config.values import bad_value

LEAST_BITS = 2048  # Salesforce refuses certificates of shorter keys; RFC 7518 requires this length for RS256
REMEDY = "create one: openssl genrsa -out key.pem 2048"
# The object identifier of RSASSA-PSS in DER: cryptography loads such a key as a plain RSA key.
PSS = bytes.fromhex("06092a864886f70d01010a")
FORMS = "give the unencrypted PEM, the PEM with \\n for line ends, or its base64"
# PEM labels of files that are no signing key.
NOT_SIGNING_KEYS = {
    "CERTIFICATE": "is a certificate; give the private key that it was made with",
    "PUBLIC KEY": "is a public key; give the private key that belongs to it",
    "RSA PUBLIC KEY": "is a public key; give the private key that belongs to it",
    "CERTIFICATE REQUEST": "is a certificate request; give the private key that it was made with",
    "OPENSSH PRIVATE KEY": f"is a key in OpenSSH's own format; {REMEDY}",
    "EC PRIVATE KEY": f"is an EC key, and Salesforce takes RSA alone; {REMEDY}",
    "DSA PRIVATE KEY": f"is a DSA key, and Salesforce takes RSA alone; {REMEDY}",
}
ENCRYPTED = "is encrypted; give it without its passphrase: openssl rsa -in key.pem -out plain.pem"


def check_signing_key(pem: str) -> None:
    """Refuse a key that cannot sign RS256, or that the libraries warn of."""
    label = pem_label(pem).removeprefix("TRUSTED ")
    if label == "ENCRYPTED PRIVATE KEY" or "Proc-Type: 4,ENCRYPTED" in pem:
        raise bad_value(ENCRYPTED)
    if label in NOT_SIGNING_KEYS:
        raise bad_value(NOT_SIGNING_KEYS[label])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            key = load_pem_private_key(pem.encode(), password=None)
        except Warning as warning:
            raise bad_value(f"causes a warning of the library ({type(warning).__name__}); {REMEDY}") from None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise bad_value(f"is no readable private key; {FORMS}") from None
        if not isinstance(key, RSAPrivateKey):
            kind = type(key).__name__.lstrip("_").removesuffix("PrivateKey")
            raise bad_value(f"is a key of kind {kind}, and Salesforce takes RSA alone; {REMEDY}")
        if PSS in decode_pem(pem)[:64]:
            raise bad_value(f"is an RSA-PSS key, and Salesforce takes RS256 alone; {REMEDY}")
        if key.key_size < LEAST_BITS:
            raise bad_value(f"has {key.key_size:,} bits, and at least {LEAST_BITS:,} are needed; {REMEDY}")
        try:
            jwt.encode({}, pem, algorithm="RS256")
        except (Warning, jwt.PyJWTError, ValueError, TypeError) as problem:
            raise bad_value(f"cannot sign ({type(problem).__name__}); {REMEDY}") from None


def pem_label(pem: str) -> str:
    """Return the label of a PEM, such as `PRIVATE KEY` or `CERTIFICATE`; "" if the text is no PEM."""
    found = re.search(r"-----BEGIN ([A-Z0-9 ]+)-----", pem)
    return found[1] if found else ""


def decode_pem(pem: str) -> bytes:
    """Return the decoded body of a PEM; b"" if it has none."""
    body = re.sub(r"-----[^-]+-----", "", pem)
    try:
        return base64.b64decode("".join(body.split()))
    except (binascii.Error, ValueError):
        return b""
