"""A mail server's answers. It honours no keys: each message that it takes is an effect."""

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from email import policy
from email.parser import BytesHeaderParser

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

MAIL, RCPT, DATA = "MAIL", "RCPT", "DATA"
"""The methods of its requests: the sender, an address that a rule refuses, and the whole message."""
SIGNED_IN, RECIPIENTS = "signed-in", "recipients"
"""Headers of the requests; recipients stand one a line."""
_MESSAGE_ID = re.compile(r"<([^<>@]*)@")
_WORDS = 80

#: what stands behind a code, in the words of common servers
TEXTS: Mapping[str, str] = {
    "450 4.2.1": "The user is receiving mail too quickly",
    "452 4.2.2": "The mailbox is over quota",
    "550 5.1.1": "The mailbox does not exist",
    "552 5.2.2": "The mailbox is full",
    "554 5.7.1": "The message is refused as spam",
}


class MailServer:
    """With `username` and `password` a client that has not signed in with them is refused."""

    kind = "smtp"
    keyed = False
    codes = tuple(TEXTS)
    rules: Sequence[Rule] = (
        Rule("dead@*", "550 5.1.1", says="there is no such mailbox"),
        Rule("full@*", "552 5.2.2", says="mailbox full, for good"),
        Rule("quota@*", "452 4.2.2", says="mailbox full, for now"),
        Rule("spam@*", "554 5.7.1", says="refused as spam"),
        Rule("grey@*", "throttled", says="greylisted"),
        Rule("slow@*", "latency=3", says="answers after 3 s"),
        Rule("lost@*", "reset_after_body", says="takes it and resets the connection"),
    )

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._login = (secrets.get("username", ""), secrets["password"]) if secrets.get("password") else None

    def knows(self, username: bytes, password: bytes) -> bool:
        """Whether this is its user. Without a password set, everybody is."""
        if self._login is None:
            return True
        given, known = username + b"\0" + password, "\0".join(self._login).encode()
        return hmac.compare_digest(given, known)

    def hear(self, request: Request) -> Sequence[Heard]:
        """One target a recipient; the key is the local part of the Message-ID."""
        if request.method == MAIL:
            if self._login is not None and not request.headers.get(SIGNED_IN):
                raise Wrong(_reply("530 5.7.0", "Authentication required"), "not signed in")
            return ()
        if request.method == RCPT:
            return [Heard("", request.headers[RECIPIENTS], b"", "RCPT TO")]
        head = BytesHeaderParser(policy=policy.default).parsebytes(request.body)
        found = _MESSAGE_ID.search(str(head.get("message-id", "")))
        key, words = found[1] if found else "", str(head.get("subject", ""))[:_WORDS]
        return [Heard(key, to, request.body, words) for to in request.headers[RECIPIENTS].splitlines()]

    def id(self, number: int) -> str:
        """A queue id."""
        return f"4SIM{number:08X}"

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """One reply for all recipients: those that a rule refuses were refused before the message."""
        for one in taken:
            if one.code:
                return _reply(one.code, TEXTS[one.code])
        return _reply("250 2.0.0", f"Ok: queued as {taken[0].id}" if taken else "Ok")

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """450 as greylisting servers say it, 451 or 530."""
        if name == THROTTLED:
            return _reply("450 4.7.1", "Greylisted, please try again later")
        if name == SERVER_ERROR:
            return _reply("451 4.3.0", "Local error in processing")
        return _reply("530 5.7.0", "Authentication required")

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """None: bounces would come as mail."""
        return ()


def _reply(code: str, text: str) -> Answer:
    status, _, enhanced = code.partition(" ")
    return Answer(int(status), body=f"{enhanced} {text}".encode())
