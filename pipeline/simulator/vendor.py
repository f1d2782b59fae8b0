"""What a vendor's speaker is: it reads requests as the vendor does and words the answers, without any I/O."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable
from urllib.parse import parse_qsl

import orjson

THROTTLED, SERVER_ERROR, UNAUTHORIZED = "throttled", "server_error", "unauthorized"
ANSWERS = (THROTTLED, SERVER_ERROR, UNAUTHORIZED)
"""The faults that every vendor has an answer of its own for."""

DELIVERED, BOUNCED, COMPLAINED, FAILED = "delivered", "bounced", "complained", "failed"
"""What may be told in a receipt; a vendor skips those that it never tells."""


class Request(NamedTuple):
    """A request as it came. `path` and `query` are as on the wire, names of headers in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    def form(self) -> dict[str, str]:
        """The fields of a urlencoded body, the last of each name. Raises ValueError."""
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True, max_num_fields=1000))

    def asked(self) -> dict[str, str]:
        """The fields of the query, the last of each name. Raises ValueError."""
        return dict(parse_qsl(self.query, keep_blank_values=True, max_num_fields=1000))


class Answer(NamedTuple):
    """An answer to be written. Content-Length is added; Content-Type is not."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


def in_json(status: int, content: Any, **headers: str) -> Answer:
    """An answer in JSON; `retry_after="1"` becomes the header Retry-After."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": "application/json", **named}, orjson.dumps(content))


class Wrong(Exception):
    """A request that the vendor refuses as a whole: its signature, credentials or shape. Nothing is sent."""

    def __init__(self, answer: Answer, why: str) -> None:
        """`why` is shown on the page: a few words, without what the request holds."""
        super().__init__(why)
        self.answer, self.why = answer, why


class Heard(NamedTuple):
    """One target of a request."""

    key: str
    """The reference or idempotency key as the vendor would echo it; "" if there is none."""
    to: str
    """The address as the request gives it."""
    body: bytes
    """What the target gets, in bytes that are the same at every attempt (no times, no signatures)."""
    words: str = ""
    """A few words for the page, such as the subject."""


class Taken(NamedTuple):
    """What became of a target: it has a message id, or else the vendor's code that refuses it."""

    id: str
    code: str = ""


class Rule(NamedTuple):
    """What comes of a request by its address alone, so that who sends it can steer.

    `to` is a glob (fnmatch, any case). `does` is a code of the vendor, which refuses that target; or the word
    of a fault without conditions ("latency=3", "server_error", "hang"), which strikes the whole request; or
    "" for accepted.
    `receipts` are told afterwards where it was accepted and callbacks are asked for.
    """

    to: str
    does: str
    receipts: Sequence[str] = (DELIVERED,)
    says: str = ""
    """For the page: in a few words what this stands for."""


class Callback(NamedTuple):
    """A receipt, signed as the vendor signs. `url` is where the request itself asked for it, else ""."""

    headers: Mapping[str, str]
    body: bytes
    url: str = ""
    method: str = "POST"


class Vendor(Protocol):
    """How one vendor speaks."""

    @property
    def kind(self) -> str:
        """As in the settings."""

    @property
    def keyed(self) -> bool:
        """Whether a second request with the same key has no second effect."""

    @property
    def codes(self) -> Sequence[str]:
        """The vendor's own codes that a target can be refused with, as faults and in `rules`."""

    @property
    def rules(self) -> Sequence[Rule]:
        """The first that an address meets is the one."""

    def hear(self, request: Request) -> Sequence[Heard]:
        """The targets of a request, in their order. Raises Wrong where the vendor would refuse it as a whole.

        None for a request that sends nothing, such as one for a token: `accept` answers it, no fault strikes.
        """

    def id(self, number: int) -> str:
        """A message id in the vendor's form, another for each number."""

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """The answer, with one of `taken` for each of `heard`. Some or all of them may be refused."""

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """The answer that one of ANSWERS stands for; a throttled one says Retry-After, if the vendor does."""

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """The callbacks that tell `what` of an accepted target. None if the vendor tells nothing."""


class Maker(Protocol):
    """Makes a speaker.

    `secrets` are the fields that the provider's settings have under the same names (`auth_token`, …); for one
    that is not given the speaker has a fixed default, or verifies nothing where a client may go unsigned.
    Raises ValueError, without the secret, for one that cannot be used.
    """

    def __call__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> Vendor: ...


@runtime_checkable
class Remembers(Protocol):
    """A vendor that can be asked later what it took."""

    def remember(self, request: Request, taken: Taken) -> None:
        """Hears what became of a target that was accepted, answered or not."""
