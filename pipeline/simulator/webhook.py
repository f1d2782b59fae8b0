"""A receiver of webhooks: it verifies Standard Webhooks, and knows those it has had by `webhook-id`."""

from collections.abc import Callable, Mapping, Sequence

from standardwebhooks import Webhook, WebhookVerificationError

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
)


class WebhookReceiver:
    """With a `secret` a request that is not signed with it is answered 401; else none is verified."""

    kind = "webhook"
    keyed = True
    codes = ("400", "404", "410", "413", "422")
    rules: Sequence[Rule] = (
        Rule("/gone/*", "410", says="wants nothing any more"),
        Rule("/missing/*", "404", says="not found"),
        Rule("/slow/*", "latency=3", says="answers after 3 s"),
        Rule("/busy/*", "throttled", says="429 with Retry-After"),
        Rule("/broken/*", "server_error", says="500"),
        Rule("/hang/*", "hang", says="takes it and never answers"),
    )

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        secret = secrets.get("secret")
        try:
            self._verifier = Webhook(secret) if secret else None
        except Exception:  # its own error, or that of its decoder, as it comes
            raise ValueError("webhook.secret: no secret of Standard Webhooks (whsec_…)") from None

    def hear(self, request: Request) -> Sequence[Heard]:
        """One target: the path."""
        if request.method != "POST":
            raise Wrong(Answer(405, {"allow": "POST"}), "not a POST")
        if self._verifier is not None:
            try:
                self._verifier.verify(request.body, dict(request.headers), json_parse=False)
            except (WebhookVerificationError, ValueError):
                raise Wrong(Answer(401), "not signed with the secret") from None
        headers = request.headers
        return [Heard(headers.get("webhook-id", ""), request.path, request.body)]

    def id(self, number: int) -> str:
        """Receivers give none; this one is for the ledger."""
        return f"hook-{number}"

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """204, or the code."""
        return Answer(int(taken[0].code or 204))

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """429, 500 or 401."""
        if name == THROTTLED:
            return Answer(429, {"retry-after": "1"})
        return Answer(500 if name == SERVER_ERROR else 401)

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """None: the answer is all that a receiver says."""
        return ()
