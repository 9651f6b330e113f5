"""ed25519 signatures over ``manifest.json`` (RFC 8032), by the ``cryptography`` package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_bdl.errors import InputError, SignatureError, require

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64

_PEM = b"-----BEGIN"


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
    exceptions = require("cryptography.exceptions", "sign", "to verify a signature")
    try:
        _public_key(trusted_key).verify(signature, message)
    except exceptions.InvalidSignature as error:
        raise SignatureError(
            "manifest.sig is not the trusted key's signature of this manifest.json; get the bundle from its signer"
        ) from error


def _private_key(key: bytes) -> Ed25519PrivateKey:
    require("cryptography", "sign", "to sign a bundle")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if not key.startswith(_PEM):
            return Ed25519PrivateKey.from_private_bytes(key)
        loaded = load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise InputError(f"not an ed25519 private key, expected 32 raw bytes or an unencrypted PEM: {error}") from error
    if not isinstance(loaded, Ed25519PrivateKey):
        raise InputError("this PEM holds a private key of another kind, expected ed25519")
    return loaded


def _public_key(key: bytes) -> Ed25519PublicKey:
    require("cryptography", "sign", "to verify a signature")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        if not key.startswith(_PEM):
            return Ed25519PublicKey.from_public_bytes(key)
        loaded = load_pem_public_key(key)
    except ValueError as error:
        raise InputError(f"not an ed25519 public key, expected 32 raw bytes or PEM: {error}") from error
    if not isinstance(loaded, Ed25519PublicKey):
        raise InputError("this PEM holds a public key of another kind, expected ed25519")
    return loaded
