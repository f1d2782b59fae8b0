"""What Amazon does with a signed request: it makes the signature anew and compares (Signature Version 4)."""

import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote

from pipeline.simulator.vendor import Answer, Request, Wrong, in_json

ACCESS_KEY_ID, SECRET_ACCESS_KEY = "AKIASIMULATED", "simulated"
"""What is expected where no others are given."""
SECONDS = 300.0
"""How far off a request's time may be."""
_SAFE = "/-_.~"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)


def refusal(status: int, name: str, text: str) -> Answer:
    """An error as the services that speak JSON word it."""
    return in_json(status, {"message": text}, x_amzn_errortype=name)


def verify(request: Request, service: str, secrets: Mapping[str, str], now: float) -> str:
    """The region that a request is signed for. Raises Wrong."""
    found = _AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
    if found is None:
        raise Wrong(
            refusal(403, "MissingAuthenticationTokenException", "Missing Authentication Token"), "not signed"
        )
    key_id, day, region, named, names, signature = found.groups()
    if key_id != (secrets.get("access_key_id") or ACCESS_KEY_ID):
        text = "The security token included in the request is invalid."
        raise Wrong(refusal(403, "UnrecognizedClientException", text), "not our access key")
    if request.headers.get("x-amz-security-token", "") != secrets.get("session_token", ""):
        text = "The security token included in the request is invalid."
        raise Wrong(refusal(403, "UnrecognizedClientException", text), "not our session token")
    at = request.headers.get("x-amz-date", "")
    if named != service or not {"host", "x-amz-date"} <= set(names.split(";")):
        raise _unlike("Credential should be scoped to correct service.")
    if not _is_current(at, day, now):
        raise _unlike("Signature expired")
    scope = f"{day}/{region}/{service}/aws4_request"
    told = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{sha256(_canonical(request, names)).hexdigest()}"
    secret = secrets.get("secret_access_key") or SECRET_ACCESS_KEY
    signed = f"AWS4{secret}".encode()
    for part in (*scope.split("/"), told):
        signed = hmac.digest(signed, part.encode(), "sha256")
    if not hmac.compare_digest(signed.hex(), signature):
        raise _unlike("The request signature we calculated does not match the signature you provided.")
    return region


def _canonical(request: Request, names: str) -> bytes:
    headers = "".join(
        f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in names.split(";")
    )
    query = "&".join(sorted(request.query.split("&")))
    return (
        f"{request.method}\n{quote(request.path, safe=_SAFE)}\n{query}\n{headers}\n{names}\n"
        f"{sha256(request.body).hexdigest()}"
    ).encode()


def _is_current(at: str, day: str, now: float) -> bool:
    try:
        moment = datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return False
    return at.startswith(day) and abs(moment.timestamp() - now) <= SECONDS


def _unlike(text: str) -> Wrong:
    return Wrong(refusal(403, "InvalidSignatureException", text), "not signed with our key")
