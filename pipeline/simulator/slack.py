"""Slack: chat.postMessage with a bot's token, and incoming webhooks, which answer in another way."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from pipeline.simulator.vendor import (
    SERVER_ERROR,
    THROTTLED,
    Answer,
    Callback,
    Heard,
    Request,
    Rule,
    Taken,
    Wrong,
    in_json,
)

BOT_TOKEN = "simulated"  # noqa: S105  # no secret: it is what a simulator takes
METHOD = "/api/chat.postMessage"
HOOKS = "/services/"
LONGEST = 40_000
"""Characters; Slack cuts a text off there, and this refuses it, so that it is seen."""

HOOK_STATUSES: Mapping[str, int] = {
    "channel_not_found": 404,
    "no_service": 404,
    "channel_is_archived": 410,
    "action_prohibited": 403,
    "invalid_token": 403,
    "is_archived": 410,
}
"""How a webhook answers what refuses its channel; the rest 400."""


class SlackSimulator:
    """Asks for `bot_token`. Whoever knows the URL of a webhook may post to it."""

    kind = "slack"
    keyed = False
    codes = (
        "channel_not_found",
        "not_in_channel",
        "is_archived",
        "restricted_action",
        "no_service",
        "channel_is_archived",
        "action_prohibited",
        "invalid_auth",
        "token_revoked",
        "internal_error",
    )
    rules = (
        Rule("CMISSING*", "channel_not_found", says="no such channel"),
        Rule("COUTSIDE*", "not_in_channel", says="the bot is not in it"),
        Rule("CARCHIVED*", "is_archived", says="archived"),
        Rule("/services/T0/BGONE/*", "no_service", says="a webhook that was removed"),
        Rule("/services/T0/BARCHIVED/*", "channel_is_archived", says="its channel is archived"),
        Rule("CBUSY*", "throttled", says="429 with Retry-After"),
        Rule("CSLOW*", "latency=3", says="answers after 3 s"),
        Rule("CHANG*", "hang", says="takes it and never answers"),
    )

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._token = secrets.get("bot_token") or BOT_TOKEN
        self._clock = clock

    def hear(self, request: Request) -> Sequence[Heard]:
        """One target: a channel, or the path of a webhook."""
        if request.path.startswith(HOOKS):
            return [self._hear_hook(request)]
        if request.path != METHOD:
            raise Wrong(_refusal("unknown_method"), "no such method")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token:
            raise Wrong(_refusal("not_authed"), "without a token")
        if scheme != "Bearer" or token != self._token:
            raise Wrong(_refusal("invalid_auth"), "another token")
        told = self._object(request, _refusal("invalid_json"))
        channel, text = told.get("channel"), told.get("text")
        if not isinstance(channel, str) or not channel:
            raise Wrong(_refusal("channel_not_found"), "without a channel")
        if not isinstance(text, str) or not text:
            raise Wrong(_refusal("no_text"), "without a text")
        if len(text) > LONGEST:
            raise Wrong(_refusal("msg_too_long"), "the text is too long")
        body = orjson.dumps([channel, text])
        return [Heard(self._reference(told.get("metadata")), channel, body, text[:80])]

    def _hear_hook(self, request: Request) -> Heard:
        wrong = _word(400, "invalid_payload")
        if request.method != "POST":
            raise Wrong(wrong, "not a POST")
        text = self._object(request, wrong).get("text")
        if not isinstance(text, str) or not text:
            raise Wrong(_word(400, "no_text"), "without a text")
        return Heard("", request.path, text.encode(), text[:80])

    def _object(self, request: Request, wrong: Answer) -> dict[str, Any]:
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise Wrong(wrong, "not JSON")
        try:
            told = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            raise Wrong(wrong, "no JSON") from None
        if not isinstance(told, dict):
            raise Wrong(wrong, "no object")
        return told

    def _reference(self, metadata: object) -> str:
        if metadata is None:
            return ""
        told = metadata if isinstance(metadata, dict) else {}
        payload = told.get("event_payload")
        if not isinstance(payload, dict) or not isinstance(told.get("event_type"), str):
            raise Wrong(_refusal("invalid_metadata_format"), "metadata of another form")
        reference = payload.get("reference", "")
        return reference if isinstance(reference, str) else ""

    def id(self, number: int) -> str:
        """A message's time, by which Slack knows it."""
        return f"{int(self._clock())}.{number % 1_000_000:06d}"

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """200 either way; a webhook answers with a word and a status of its own."""
        code = taken[0].code
        if request.path.startswith(HOOKS):
            return _word(HOOK_STATUSES.get(code, 400), code) if code else _word(200, "ok")
        if code:
            return _refusal(code)
        ts, text = taken[0].id, orjson.loads(request.body)["text"]
        posted = {"type": "message", "subtype": "bot_message", "text": text, "ts": ts, "bot_id": "B0"}
        return in_json(200, {"ok": True, "channel": heard[0].to, "ts": ts, "message": posted})

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """429 with Retry-After, 500, or a token that is refused."""
        if request.path.startswith(HOOKS):
            if name == THROTTLED:
                return _word(429, "rate_limited", retry_after="1")
            return _word(500, "rollup_error") if name == SERVER_ERROR else _word(403, "invalid_token")
        if name == THROTTLED:
            return in_json(429, {"ok": False, "error": "ratelimited"}, retry_after="1")
        if name == SERVER_ERROR:
            return in_json(500, {"ok": False, "error": "internal_error"})
        return _refusal("invalid_auth")

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """None: Slack tells nothing of a message afterwards."""
        return ()


def _refusal(error: str) -> Answer:
    return in_json(200, {"ok": False, "error": error})


def _word(status: int, word: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": "text/html", **named}, word.encode())
