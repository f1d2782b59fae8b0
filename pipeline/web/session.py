"""Signing in: one operator token, and the session that a browser holds in its stead."""

import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import scrypt, sha256
from typing import Any

from starlette.responses import RedirectResponse, Response

LASTS_SECONDS = 12 * 3600
SEAL_SECONDS = 3600
_SALT = b"carillon operator session"


@lru_cache(maxsize=64)
def _key(token: str) -> bytes:
    """A key that cannot be led back to the token, even a short one, by whoever sees a session."""
    return scrypt(token.encode(), salt=_SALT, n=2**14, r=8, p=1, dklen=32)


class Sessions:
    """Issues sessions and knows them again, also after a restart with the same token. Keeps nothing.

    `secure` says that browsers come over https.
    """

    def __init__(self, token: str, clock: Callable[[], float] = time.time, *, secure: bool = False) -> None:
        if not token:
            raise ValueError("the operator token is empty")
        self._token, self._clock, self._signing, self._secure = token.encode(), clock, _key(token), secure
        #: cookies of one host are shared by all its ports, hence a name for each token
        self.cookie = f"carillon_{sha256(self._signing).hexdigest()[:8]}"

    def is_token(self, given: str) -> bool:
        """Whether it is the operator token."""
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)

    def issue(self) -> str:
        """A new session, good for LASTS_SECONDS."""
        expires = str(int(self._clock()) + LASTS_SECONDS)
        return f"{expires}.{self._signature(expires)}"

    def is_open(self, given: str) -> bool:
        """Whether it is a session of ours that has not expired."""
        expires, _, signature = given.partition(".")
        if not hmac.compare_digest(
            signature.encode("utf-8", "surrogateescape"), self._signature(expires).encode()
        ):
            return False
        return int(expires) > self._clock()

    def begin(self, to: str) -> Response:
        """A redirect that carries a new session."""
        response = RedirectResponse(to, 303)
        response.set_cookie(
            self.cookie, self.issue(), max_age=LASTS_SECONDS, path="/", httponly=True, samesite="strict",
            secure=self._secure,
        )  # fmt: skip
        return response

    def end(self, to: str) -> Response:
        """A redirect that takes the session away."""
        response = RedirectResponse(to, 303)
        response.delete_cookie(self.cookie, path="/", httponly=True, samesite="strict", secure=self._secure)
        return response

    def form_token(self, session: str) -> str:
        """What every form of a session carries, so that no other site can send one in its name."""
        return self._signature(f"form|{session}")

    def is_form_token(self, session: str, given: str) -> bool:
        """Whether a form is of that session."""
        return hmac.compare_digest(
            given.encode("utf-8", "surrogateescape"), self.form_token(session).encode()
        )

    def seal(self, purpose: str, told: Mapping[str, Any]) -> str:
        """A note to ourselves, to come back with a form or an address; good for SEAL_SECONDS."""
        body = urlsafe_b64encode(json.dumps({"until": int(self._clock()) + SEAL_SECONDS, **told}).encode())
        return f"{body.decode()}.{self._signature(f'{purpose}|{body.decode()}')}"

    def unseal(self, purpose: str, given: str) -> dict[str, Any] | None:
        """What a note says; None for one that is not ours, of another purpose, or too old."""
        body, _, signature = given.partition(".")
        if not hmac.compare_digest(
            signature.encode("utf-8", "surrogateescape"), self._signature(f"{purpose}|{body}").encode()
        ):
            return None
        found: dict[str, Any] = json.loads(urlsafe_b64decode(body))
        return found if found.pop("until") > self._clock() else None

    def _signature(self, text: str) -> str:
        return hmac.new(self._signing, text.encode("utf-8", "surrogateescape"), sha256).hexdigest()
