"""Callbacks as vendors sign them, with keys made for the occasion."""

import hashlib
import hmac
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlencode

import jwt
import orjson
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pipeline.receipts.mailgun import Mailgun
from pipeline.receipts.receipt import Callback, Vendor
from pipeline.receipts.resend import Resend
from pipeline.receipts.sendgrid import SIGNATURE, TIMESTAMP, SendGrid
from pipeline.receipts.ses import SES
from pipeline.receipts.twilio import Twilio
from pipeline.receipts.vonage import Vonage
from tests.journeys.memory import NOON
from tests.journeys.samples import ID

NOW = NOON / 1000
REFERENCE = f"{ID}.0a1b2c3d4e5f"
URL = "https://notify.example/callbacks/main"
SECRET = "a secret of sixty-four letters and more, for the longest of their hashes.."
TOPIC = "arn:aws:sns:eu-west-1:123456789012:receipts"
CERTIFICATE = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123abcd.pem"
FORM = "application/x-www-form-urlencoded"


class Signed(NamedTuple):
    """What a vendor sent, and who is to believe it."""

    vendor: Vendor
    callback: Callback


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def certificate(days: int = 30) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.fromtimestamp(NOW, UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(rsa_key().public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .sign(rsa_key(), SHA256())
    )  # fmt: skip
    return made.public_bytes(Encoding.PEM)


class Web:
    """What stands at URLs, and which were asked for."""

    def __init__(self, body: bytes | None = None) -> None:
        self.body, self.asked = body, list[str]()

    async def __call__(self, url: str) -> bytes:
        self.asked.append(url)
        return certificate() if self.body is None else self.body


def sendgrid(*events: dict[str, Any], at: float = NOW) -> Signed:
    public = ec_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    body, signed = orjson.dumps(events), str(int(at))
    signature = ec_key().sign(signed.encode() + body, ec.ECDSA(SHA256()))
    headers = {
        SIGNATURE: b64encode(signature).decode(),
        TIMESTAMP: signed,
        "content-type": "application/json",
    }
    return Signed(SendGrid(b64encode(public).decode()), Callback(URL, headers, body, NOW))


def a_sendgrid_event(event: str, **fields: Any) -> dict[str, Any]:
    return {"event": event, "carillon": REFERENCE, "timestamp": int(NOW), "sg_message_id": "sg-1"} | fields


def resend(type: str = "email.delivered", at: float = NOW, id: str = "msg_1", **data: Any) -> Signed:
    told = {"email_id": "re-1", "tags": {"carillon": REFERENCE.replace(".", "_")}} | data
    body = orjson.dumps({"type": type, "created_at": "2026-09-21T13:33:21.000Z", "data": told})
    key = SECRET.encode()
    signature = b64encode(hmac.digest(key, f"{id}.{int(at)}.".encode() + body, "sha256")).decode()
    headers = {
        "svix-id": id,
        "svix-timestamp": str(int(at)),
        "svix-signature": f"v1,{b64encode(b'of an older secret').decode()} v1,{signature}",
        "content-type": "application/json",
    }
    return Signed(Resend("whsec_" + b64encode(key).decode()), Callback(URL, headers, body, NOW))


def mailgun(event: str = "delivered", at: float = NOW, token: str = "t" * 50, **fields: Any) -> Signed:
    signature = hmac.new(SECRET.encode(), f"{int(at)}{token}".encode(), "sha256").hexdigest()
    told = {"event": event, "timestamp": NOW, "user-variables": {"carillon": REFERENCE}} | fields
    body = orjson.dumps(
        {"signature": {"timestamp": str(int(at)), "token": token, "signature": signature}, "event-data": told}
    )
    return Signed(Mailgun(SECRET), Callback(URL, {"content-type": "application/json"}, body, NOW))


def twilio(url: str = f"{URL}?ref={REFERENCE}", **fields: str) -> Signed:
    whole = url + "".join(f"{name}{fields[name]}" for name in sorted(fields))
    signature = b64encode(hmac.digest(SECRET.encode(), whole.encode(), "sha1")).decode()
    headers = {"x-twilio-signature": signature, "content-type": FORM}
    return Signed(Twilio(SECRET), Callback(url, headers, urlencode(fields).encode(), NOW))


def vonage(at: float = NOW, method: str = "sha256", **fields: str) -> Signed:
    told = {"timestamp": str(int(at)), "nonce": "n-1"} | {n.replace("_", "-"): v for n, v in fields.items()}
    whole = "".join(f"&{n}={told[n].replace('&', '_').replace('=', '_')}" for n in sorted(told))
    if method == "md5hash":
        sig = hashlib.md5((whole + SECRET).encode(), usedforsecurity=False).hexdigest()
    else:
        sig = hmac.new(SECRET.encode(), whole.encode(), method).hexdigest()
    body = urlencode(told | {"sig": sig.upper()}).encode()
    return Signed(Vonage(SECRET, method), Callback(URL, {"content-type": FORM}, body, NOW))  # type: ignore[arg-type]  # one of its methods


def vonage_token(at: float = NOW, algorithm: str = "HS256", **fields: Any) -> Signed:
    body = orjson.dumps({"status": "delivered", "client_ref": REFERENCE, "message_uuid": "v-1"} | fields)
    claims = {"iat": int(at), "iss": "Vonage", "payload_hash": hashlib.sha256(body).hexdigest()}
    token = jwt.encode(claims, "" if algorithm == "none" else SECRET, algorithm)
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    return Signed(Vonage(SECRET), Callback(URL, headers, body, NOW))


def sns(fields: dict[str, str], *, version: str = "2", web: Web | None = None, at: float = NOW) -> Signed:
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {
        "Type": "Notification", "MessageId": "m-1", "TopicArn": TOPIC, "Message": "{}", "Timestamp": moment,
        "SignatureVersion": version, "SigningCertURL": CERTIFICATE,
    } | fields  # fmt: skip
    names = ["Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    whole = "".join(f"{name}\n{told[name]}\n" for name in names if name in told)
    hashed = SHA256() if version == "2" else SHA1()  # noqa: S303  # version 1 is what is to be refused
    told["Signature"] = b64encode(rsa_key().sign(whole.encode(), PKCS1v15(), hashed)).decode()
    vendor = SES(TOPIC, web or Web())
    return Signed(vendor, Callback(URL, {"content-type": "text/plain"}, orjson.dumps(told), NOW))


def ses(event: str = "Delivery", web: Web | None = None, at: float = NOW, **fields: Any) -> Signed:
    message = {
        "eventType": event, **fields,
        "mail": {"messageId": "ses-1", "timestamp": "2026-09-21T13:33:20.000Z",
                 "tags": {"carillon": [REFERENCE.replace(".", "_")], "ses:caller-identity": ["x"]}},
    }  # fmt: skip
    return sns({"Message": orjson.dumps(message).decode()}, web=web, at=at)


def tampered(callback: Callback) -> Callback:
    """The same with one letter of the body changed, of what the signature stands for."""
    return callback._replace(body=callback.body.replace(REFERENCE[:4].encode(), b"ffff", 1))
