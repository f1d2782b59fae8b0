"""Messages on Slack: with a bot's token over chat.postMessage, or to an incoming webhook that is the target.

Slack documents no idempotency key: a call that was written and not answered is in doubt.
"""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import httpx
import orjson
from pydantic import Field, SecretStr

from pipeline.providers.answers import by_code, told
from pipeline.providers.http import NO_SUCH_CALL, STATUSES, Answer, Ended, HttpProvider, by_status
from pipeline.providers.provider import HttpSettings, Place
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, refused, sent

URL, HOOKS_URL = "https://slack.com", "https://hooks.slack.com"

_STATUSES = {status: meaning for status, meaning in STATUSES.items() if status != "2xx"}
CODES: Mapping[str, Meaning] = {
    "channel_not_found": Meaning("refused", "target", "there is no such channel, or the bot cannot see it"),
    "not_in_channel": Meaning("refused", "target", "the bot is not in the channel"),
    "is_archived": Meaning("refused", "target", "the channel is archived"),
    "user_not_found": Meaning("refused", "target", "there is no such user"),
    "messages_tab_disabled": Meaning("refused", "target", "the app takes no direct messages"),
    "restricted_action": Meaning("refused", "target", "the workspace does not let the bot post there"),
    "restricted_action_read_only_channel": Meaning("refused", "target", "the channel is read-only"),
    "restricted_action_thread_only_channel": Meaning("refused", "target", "the channel takes replies only"),
    "restricted_action_non_threadable_channel": Meaning("refused", "target", "the channel takes no replies"),
    "msg_too_long": Meaning("refused", "message", "the text is too long"),
    "no_text": Meaning("refused", "message", "the text is empty"),
    "invalid_arguments": Meaning("refused", "message", "an argument is not valid"),
    "invalid_metadata_format": Meaning("refused", "message", "the metadata is not valid"),
    "not_authed": Meaning("deferred", "provider", "the token is missing"),
    "invalid_auth": Meaning("deferred", "provider", "the token is refused"),
    "account_inactive": Meaning("deferred", "provider", "the token's bot or workspace is deleted"),
    "token_revoked": Meaning("deferred", "provider", "the token is revoked"),
    "token_expired": Meaning("deferred", "provider", "the token has expired"),
    "not_allowed_token_type": Meaning("deferred", "provider", "the token is of another type"),
    "missing_scope": Meaning("deferred", "provider", "the token lacks chat:write"),
    "no_permission": Meaning("deferred", "provider", "the token does not allow it"),
    "access_denied": Meaning("deferred", "provider", "the token does not allow it"),
    "accesslimited": Meaning("deferred", "provider", "not allowed from this network"),
    "ekm_access_denied": Meaning("deferred", "provider", "administrators have suspended posting"),
    "enterprise_is_restricted": Meaning("deferred", "provider", "not allowed for this enterprise"),
    "team_access_not_granted": Meaning("deferred", "provider", "the token is not for this workspace"),
    "org_login_required": Meaning("deferred", "provider", "the workspace is being moved"),
    "team_added_to_org": Meaning("deferred", "provider", "the workspace is being moved"),
    "two_factor_setup_required": Meaning("deferred", "provider", "two-factor sign-in has to be set up"),
    "ratelimited": Meaning("deferred", "provider", "too many requests", throttles=True),
    "rate_limited": Meaning("deferred", "provider", "too many messages", throttles=True),
    "message_limit_exceeded": Meaning("deferred", "provider", "too many messages in this workspace"),
    "request_timeout": Meaning("deferred", "provider", "the request did not arrive whole"),
    "service_unavailable": Meaning("deferred", "provider", "not available now"),
    "internal_error": Meaning("doubtful", "provider", "an error at Slack, which may have posted it"),
    "fatal_error": Meaning("doubtful", "provider", "an error at Slack, which may have posted it"),
    "invalid_payload": Meaning("refused", "message", "the webhook cannot read it"),
    "too_many_attachments": Meaning("refused", "message", "more attachments than are allowed"),
    "no_service": Meaning("refused", "target", "the webhook is disabled, removed or not valid"),
    "no_service_id": Meaning("refused", "target", "the webhook is disabled, removed or not valid"),
    "no_active_hooks": Meaning("refused", "target", "the webhook is disabled"),
    "no_team": Meaning("refused", "target", "the webhook's workspace is missing"),
    "team_disabled": Meaning("refused", "target", "the webhook's workspace is no longer active"),
    "invalid_token": Meaning("refused", "target", "the webhook's token is not valid"),
    "action_prohibited": Meaning("refused", "target", "the workspace does not let the webhook post"),
    "posting_to_general_channel_denied": Meaning("refused", "target", "only administrators post there"),
    "channel_is_archived": Meaning("refused", "target", "the channel is archived"),
    "rollup_error": Meaning("doubtful", "provider", "an error at Slack, which may have posted it"),
    **_STATUSES,
    **NO_SUCH_CALL,
}
"""By the `error` of chat.postMessage or the word of a webhook; another one: UNKNOWN, or its status."""
UNKNOWN = Meaning("deferred", "provider", "not posted, and it is not known why")
"""`ok` is false, with an error that is not in the table."""
HOOK_CODES: Mapping[str, Meaning] = {
    **CODES,
    "401": Meaning("refused", "target", "the webhook does not allow it"),
    "403": Meaning("refused", "target", "the webhook does not allow it"),
    "404": Meaning("refused", "target", "there is no such webhook"),
    "410": Meaning("refused", "target", "the webhook is gone"),
    "429": Meaning("deferred", "target", "too many messages for this webhook"),
    "rate_limited": Meaning("deferred", "target", "too many messages for this webhook"),
}
"""What differs where the target is a webhook: its URL is the credential, and its limit is its own."""

_HOOK = re.compile(r"https://hooks\.slack\.com(/services/[A-Za-z0-9_/-]{1,200})", re.ASCII)
_WORD = re.compile(rb"[a-z_]{2,60}")
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
LONGEST_CHANNEL = 100
_HEADERS = {"content-type": "application/json; charset=utf-8", "user-agent": "Carillon"}


class Settings(HttpSettings):
    """What can be set for Slack."""

    kind: Literal["slack"] = "slack"
    bot_token: SecretStr | None = Field(
        None,
        description="xoxb-…, with chat:write: targets are then channels and users; none: webhooks' URLs only",
    )
    bot_token_file: Path | None = Field(None, description="a file that holds bot_token")


class _Bot(HttpProvider):
    """chat.postMessage."""

    kind = "slack"
    codes = CODES

    def __init__(
        self, name: str, *, timeout: float, base_url: str, clock: Callable[[], float], bot_token: str | None
    ) -> None:
        super().__init__(name, timeout=timeout, base_url=base_url, clock=clock)
        self._url = httpx.URL(f"{self.base_url}/api/chat.postMessage")
        self._headers = _HEADERS | {"authorization": f"Bearer {bot_token}"} if bot_token else None

    async def compose(self, message: Message, key: str) -> httpx.Request:
        if "://" in message.target or not 0 < len(message.target) <= LONGEST_CHANNEL:
            raise Ended(refused("neither an incoming webhook of Slack's nor a channel", fault="target"))
        if self._headers is None:
            raise Ended(refused("a channel is reached with a bot_token only", fault="target"))
        body = {
            "channel": message.target,
            "text": escaped(message.text),
            "metadata": {"event_type": "carillon", "event_payload": {"reference": key}},
        }
        return httpx.Request("POST", self._url, headers=self._headers, content=orjson.dumps(body))

    def judge(self, answer: Answer) -> Outcome:
        """`ok` and `error` tell, whatever the status is."""
        found = told(answer)
        error, ts = found.get("error"), found.get("ts")
        if found.get("ok") is False and isinstance(error, str):
            return by_code({**CODES, "2xx": UNKNOWN, "4xx": UNKNOWN}, error, answer, self.clock())
        if answer.status == 200 and found.get("ok") is True and isinstance(ts, str):
            return sent(f"{found.get('channel', '')}/{ts}")
        return by_status(CODES, answer, self.clock())


class _Hook(HttpProvider):
    """An incoming webhook, which answers with a word."""

    kind = "slack"
    codes = HOOK_CODES

    async def compose(self, message: Message, key: str) -> httpx.Request:
        place = _HOOK.fullmatch(message.target)
        assert place is not None
        content = orjson.dumps({"text": escaped(message.text)})
        return httpx.Request("POST", self.base_url + place[1], headers=_HEADERS, content=content)

    def judge(self, answer: Answer) -> Outcome:
        """Posted is what is answered `ok`."""
        word = (answer.body or b"").strip()
        if answer.status == 200 and word == b"ok":
            return sent()
        if answer.status != 200 and _WORD.fullmatch(word):
            return by_code(HOOK_CODES, word.decode(), answer, self.clock())
        return by_status(HOOK_CODES, answer, self.clock())


class SlackProvider:
    """Posts one message a call, to a channel or user (with a token) or to an incoming webhook."""

    kind = "slack"
    honours_keys = False
    parallel = HttpProvider.parallel
    platforms = None

    def __init__(
        self,
        name: str,
        *,
        timeout: float,
        bot_token: str | None = None,
        base_url: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`base_url` stands for both of Slack's hosts."""
        self.name, self.timeout = name, timeout
        self._bot = _Bot(name, timeout=timeout, base_url=base_url or URL, clock=clock, bot_token=bot_token)
        self._hook = _Hook(name, timeout=timeout, base_url=base_url or HOOKS_URL, clock=clock)

    async def send(self, message: Message, key: str) -> Outcome:
        """Posts once. A URL that is no incoming webhook of Slack's is refused, and nobody is called."""
        to = self._hook if _HOOK.fullmatch(message.target) else self._bot
        return await to.send(message, key)

    async def close(self) -> None:
        """Lets the connections go."""
        await self._bot.close()
        await self._hook.close()


def escaped(text: str) -> str:
    """A text of which nothing is taken for a link, a mention or a command (`<!channel>`)."""
    return text.translate(_ESCAPES)


def make(name: str, settings: Settings, place: Place) -> SlackProvider:
    """The provider for a workspace, or for webhooks alone."""
    token = settings.bot_token.get_secret_value() if settings.bot_token else None
    return SlackProvider(name, timeout=settings.timeout, bot_token=token, base_url=settings.base_url)
