"""Links that a message carries to us: each a token, signed for its purpose, and the same every time."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple, TypeVar

import msgspec
from itsdangerous import BadSignature, Signer

MOST_URL = 2_000
MOST_TOKEN = 6_000
OPENED, CLICKED, UNSUBSCRIBE = "/t/o/", "/t/c/", "/unsubscribe/"


class NotOurs(ValueError):
    """A token that we did not make, or for something else."""


class Subject(msgspec.Struct, frozen=True, array_like=True):
    """The message that a link is in; `category` is left out where the link is of none."""

    notification_id: str
    user_id: str
    target_id: str
    step: str
    category: str = ""


class Click(msgspec.Struct, frozen=True, array_like=True):
    """A link of somebody else's, and the message that it stood in."""

    subject: Subject
    url: str


Kind = TypeVar("Kind", Subject, Click)


class Links(NamedTuple):
    """Makes and reads them. `base` is the address of our HTTP side, without a slash at its end."""

    base: str
    secret: str

    def unsubscribe(self, subject: Subject) -> str:
        """Where a message's reader says that they want no more of its category."""
        return f"{self.base}{UNSUBSCRIBE}{self._token(UNSUBSCRIBE, subject)}"

    def opened(self, subject: Subject) -> str:
        """An image that nobody sees."""
        return f"{self.base}{OPENED}{self._token(OPENED, subject)}"

    def clicked(self, subject: Subject, url: str) -> str:
        """A link that leads on to `url`."""
        return f"{self.base}{CLICKED}{self._token(CLICKED, Click(subject, url))}"

    def read(self, purpose: str, token: str, kind: type[Kind]) -> Kind:
        """What a token of that purpose says. Raises NotOurs."""
        if len(token) > MOST_TOKEN:
            raise NotOurs("too long")
        try:
            signed = self.signer(purpose).unsign(token.encode())
            return msgspec.json.decode(urlsafe_b64decode(signed + b"=" * (-len(signed) % 4)), type=kind)
        except (BadSignature, ValueError):
            raise NotOurs("not signed by us") from None

    def _token(self, purpose: str, said: Subject | Click) -> str:
        return self.signer(purpose).sign(urlsafe_b64encode(msgspec.json.encode(said)).rstrip(b"=")).decode()

    def signer(self, purpose: str) -> Signer:
        """What signs for one purpose: a token for another is none."""
        return Signer(
            self.secret, salt=f"carillon{purpose}", key_derivation="hmac", digest_method=hashlib.sha256
        )
