"""Message encryption for Web Push, the browser's side, written out from RFC 8291 and RFC 8188."""

import base64
import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SALT, HEADER, TAG = 16, 21, 16


def unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def private(text: str) -> ec.EllipticCurvePrivateKey:
    """A key from its 32 bytes in base64url."""
    return ec.derive_private_key(int.from_bytes(unbase64(text)), ec.SECP256R1())


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, hashlib.sha256)


def decrypt(record: bytes, key: ec.EllipticCurvePrivateKey, auth: bytes) -> bytes:
    """The plain text of a message of one record (RFC 8291, 3.4 and 4). Fails for anything else."""
    salt, size, length = record[:SALT], int.from_bytes(record[SALT : SALT + 4]), record[SALT + 4]
    sender, sealed = record[HEADER : HEADER + length], record[HEADER + length :]
    assert length == 65
    assert len(sealed) <= size
    shared = key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender))
    info = b"WebPush: info\0" + point_of(key.public_key()) + sender
    secret = _hmac(_hmac(auth, shared), info + b"\x01")
    pseudorandom = _hmac(salt, secret)
    content_key = _hmac(pseudorandom, b"Content-Encoding: aes128gcm\0\x01")[:16]
    nonce = _hmac(pseudorandom, b"Content-Encoding: nonce\0\x01")[:12]
    padded = AESGCM(content_key).decrypt(nonce, sealed, None).rstrip(b"\0")
    assert padded.endswith(b"\x02"), "the delimiter of the last record"
    return padded[:-1]
