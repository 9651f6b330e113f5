"""ed25519 signatures over ``manifest.json`` (RFC 8032), by the ``cryptography`` package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_bdl.errors import InputError, SignatureError, require

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64

_PEM = b"-----BEGIN"
_KEYS = "cryptography.hazmat.primitives.asymmetric.ed25519"
_SERIALIZATION = "cryptography.hazmat.primitives.serialization"


def sign(message: bytes, private_key: bytes) -> bytes:
    """The signature (64 bytes) of a message.

    Args:
        message: What is signed.
        private_key: 32 raw bytes, or an unencrypted PEM (``openssl genpkey -algorithm ed25519``).

    Raises:
        InputError: It is not an ed25519 private key.
        MissingExtraError: ``cryptography`` is not installed.
    """
    return _private_key(private_key).sign(message)


def verify(message: bytes, signature: bytes, trusted_key: bytes) -> None:
    """Check a signature.

    Args:
        message: What was signed.
        signature: 64 bytes.
        trusted_key: The public key: 32 raw bytes, or PEM (``openssl pkey -pubout``).

    Raises:
        SignatureError: The signature is not this key's over this message.
        InputError: ``trusted_key`` is not an ed25519 public key.
        MissingExtraError: ``cryptography`` is not installed.
    """
    exceptions = require("cryptography.exceptions", "sign", "to check a bundle's signature")
    try:
        _public_key(trusted_key).verify(signature, message)
    except exceptions.InvalidSignature as error:
        raise SignatureError(
            "manifest.sig is not the trusted key's signature of this manifest.json; get the bundle from its signer again"
        ) from error


def _private_key(key: bytes) -> Ed25519PrivateKey:
    ed25519 = require(_KEYS, "sign", "to sign a bundle")
    try:
        if not key.startswith(_PEM):
            return ed25519.Ed25519PrivateKey.from_private_bytes(key)
        loaded = require(_SERIALIZATION, "sign", "to sign a bundle").load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise InputError(f"not an ed25519 private key, expected 32 raw bytes or an unencrypted PEM: {error}") from error
    if not isinstance(loaded, ed25519.Ed25519PrivateKey):
        raise InputError("this PEM holds a private key of another kind, expected ed25519")
    return loaded


def _public_key(key: bytes) -> Ed25519PublicKey:
    ed25519 = require(_KEYS, "sign", "to check a bundle's signature")
    try:
        if not key.startswith(_PEM):
            return ed25519.Ed25519PublicKey.from_public_bytes(key)
        loaded = require(_SERIALIZATION, "sign", "to check a bundle's signature").load_pem_public_key(key)
    except (ValueError, TypeError) as error:
        raise InputError(f"not an ed25519 public key, expected 32 raw bytes or PEM: {error}") from error
    if not isinstance(loaded, ed25519.Ed25519PublicKey):
        raise InputError("this PEM holds a public key of another kind, expected ed25519")
    return loaded
