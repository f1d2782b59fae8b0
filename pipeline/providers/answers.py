"""What an answer tells beyond its status: the vendor's own code, in JSON."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import orjson

from pipeline.providers import retry_after
from pipeline.providers.http import GARBAGE, Answer
from schemas.outcome import Meaning, Outcome


def basic(name: str, secret: str) -> str:
    """The header Authorization that says who calls (RFC 7617)."""
    return "Basic " + b64encode(f"{name}:{secret}".encode()).decode()


def told(answer: Answer) -> dict[str, Any]:
    """The JSON object that an answer holds; an empty one where it holds none."""
    try:
        found = orjson.loads(answer.body or b"")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def by_code(codes: Mapping[str, Meaning], code: str, answer: Answer, now: float) -> Outcome:
    """What a vendor's code means by a table; one that is in no table means what the answer's status does."""
    status = str(answer.status)
    meaning = codes.get(code) or codes.get(status) or codes.get(f"{status[0]}xx", GARBAGE)
    wait = retry_after.seconds(answer.headers.get("retry-after"), now) if meaning.kind == "deferred" else None
    return meaning.outcome(code, retry_after=wait)
