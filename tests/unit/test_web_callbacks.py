"""Callbacks over HTTP: answered when the broker has what they say; forged and unreadable ones are refused."""

from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from agents import topics
from agents.sending import Send
from pipeline.metrics import Metrics
from pipeline.receipts.line import BrokerAway
from pipeline.receipts.receiving import MOST_TOKENS, Receiving, Seen
from pipeline.receipts.vendors import Calling, calling
from pipeline.settings import Settings, SettingsError, given
from pipeline.web import callbacks
from pipeline.web.guard import BODY_BYTES
from schemas.ids import hash_in, phone_id
from schemas.kinds import Channel, Reason, State
from schemas.notification import LIFT, SUPPRESS, Signal
from schemas.report import Report
from tests.browser.desk import Office
from tests.journeys.samples import ID
from tests.unit import signing
from tests.unit.signing import FORM, NOW, REFERENCE, Signed, Web

HOST = "http://127.0.0.1:8080"


class Broker:
    """Takes what is sent, unless it is away."""

    def __init__(self) -> None:
        self.sent: list[Send] = []
        self.away = False

    async def send(self, sends: Sequence[Send]) -> None:
        if self.away:
            raise BrokerAway("the broker did not take it")
        self.sent += sends

    @property
    def reports(self) -> list[Report]:
        return [Report.from_json(one.value) for one in self.sent if one.topic == topics.CONTENTS]

    @property
    def signals(self) -> list[Signal]:
        return [Signal.from_json(one.value) for one in self.sent if one.topic != topics.CONTENTS]


class Post:
    """A way in from outside, to a provider called main."""

    def __init__(self, signed: Signed, channel: Channel = Channel.EMAIL) -> None:
        self.broker, self.metrics, self.office = Broker(), Metrics(), Office()
        receiving = Receiving({"main": Calling(channel, signed.vendor)}, self.broker.send, self.metrics)
        self.office.app.include_router(callbacks.router(receiving, "https://notify.example/", lambda: NOW))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.office.app), base_url=HOST)

    async def bring(self, signed: Signed, **changed: object) -> httpx.Response:
        parts = urlsplit(signed.callback.url)
        options = {"content": signed.callback.body, "headers": dict(signed.callback.headers)} | changed
        return await self.client.post(f"{parts.path}?{parts.query}" if parts.query else parts.path, **options)  # type: ignore[arg-type]  # options of httpx

    def counted(self, outcome: str) -> float:
        return float(self.metrics.receipts.labels("main", outcome)._value.get())


async def test_a_receipt_is_answered_when_the_broker_has_its_report() -> None:
    bounce = signing.a_sendgrid_event(
        "bounce", type="bounce", status="5.1.1", reason="550 <ada@example.com> no"
    )
    signed = signing.sendgrid(bounce, signing.a_sendgrid_event("dropped"))
    post = Post(signed)
    found = await post.bring(signed)
    assert (found.status_code, found.content) == (204, b"")
    first, second = post.broker.reports
    assert first == Report(
        notification_id=ID, channel=Channel.EMAIL, target_id="0a1b2c3d4e5f", step="plan", state=State.BOUNCED,
        at=int(NOW) * 1000, provider="main", provider_message_id="sg-1", detail="5.1.1: 550 <•••> no",
    )  # fmt: skip
    assert (second.state, second.reason) == (State.FAILED, Reason.UNDELIVERED)
    assert {one.hashed for one in post.broker.sent} == {hash_in(ID)}
    assert (post.counted("bounced"), post.counted("failed")) == (1, 1)


@pytest.mark.parametrize(
    ("make", "channel", "status"),
    [
        (lambda: signing.ses(delivery={}), Channel.EMAIL, 204),
        (signing.mailgun, Channel.EMAIL, 200),
        (lambda: signing.twilio(MessageStatus="delivered"), Channel.SMS, 204),
        (lambda: signing.vonage(status="delivered", client_ref=REFERENCE), Channel.SMS, 200),
        (signing.vonage_token, Channel.SMS, 200),
    ],
)
async def test_every_vendor_gets_the_answer_that_it_understands(make, channel: Channel, status: int) -> None:  # type: ignore[no-untyped-def]  # makers of all kinds
    signed = make()
    post = Post(signed, channel)
    assert (await post.bring(signed)).status_code == status
    [report] = post.broker.reports
    assert (report.state, report.channel) == (State.DELIVERED, channel)


async def test_what_is_forged_or_unknown_or_unreadable_is_told_so_and_goes_nowhere() -> None:
    signed = signing.sendgrid(signing.a_sendgrid_event("open"))
    post = Post(signed)
    bare = {"content-type": "application/json"}
    stale = signing.sendgrid(signing.a_sendgrid_event("open"), at=NOW - 400)
    for found, status in (
        (await post.bring(signed, headers=bare), 401),
        (await post.bring(stale), 401),
        (await post.bring(signed, headers={**signed.callback.headers, "content-type": "image/png"}), 415),
        (await post.client.post("/callbacks/nobody", content=b"{}", headers=bare), 404),
        (await post.client.post("/callbacks/main/more", content=b"{}", headers=bare), 404),
        (await post.client.get("/callbacks/main"), 405),
        (await post.bring(signed, content=b"a" * (callbacks.BYTES + 1)), 413),
        (await post.bring(signing.sendgrid()), 204),
    ):
        assert found.status_code == status, found.text
        assert status < 300 or found.headers["content-type"] == "application/problem+json"
    assert not post.broker.sent
    assert (post.counted("forged"), post.counted("stale")) == (1, 1)
    unclear = Post(signing.mailgun())
    assert (await unclear.bring(signing.mailgun(), content=b"[" * 100_000)).status_code == 422


async def test_a_callback_may_be_larger_than_a_form_of_ours() -> None:
    events = [signing.a_sendgrid_event("open", useragent="a" * 100)] * (BODY_BYTES // 100)
    signed = signing.sendgrid(*events)
    assert len(signed.callback.body) > BODY_BYTES
    post = Post(signed)
    assert (await post.bring(signed)).status_code == 204


async def test_a_reference_that_is_not_ours_is_no_error_to_the_vendor() -> None:
    for reference in ("x", f"{ID}.0a1b2c3d4e5f.PLAN", ID, "f" * 36 + ".0a1b2c3d4e5f", REFERENCE + "\n"):
        signed = signing.sendgrid(signing.a_sendgrid_event("open", carillon=reference))
        post = Post(signed)
        assert (await post.bring(signed)).status_code == 204
        if reference.isprintable():
            assert not post.broker.sent and post.counted("not_ours") == 1


async def test_the_vendor_is_to_come_again_while_the_broker_is_away() -> None:
    signed = signing.mailgun()
    post = Post(signed)
    post.broker.away = True
    assert (await post.bring(signed)).status_code == 503
    post.broker.away = False
    assert (await post.bring(signed)).status_code == 200
    assert len(post.broker.sent) == 1


async def test_a_copied_token_of_mailgun_carries_no_other_body_in() -> None:
    signed = signing.mailgun("complained")
    post = Post(signed)
    assert (await post.bring(signed)).status_code == 200
    body = orjson.loads(signed.callback.body)
    body["event-data"]["event"] = "unsubscribed"
    assert (await post.bring(signed, content=orjson.dumps(body))).status_code == 200
    assert [one.state for one in post.broker.reports] == [State.COMPLAINED]
    assert post.counted("repeated") == 1


def test_tokens_are_remembered_as_long_as_they_pass_and_no_more_than_so_many() -> None:
    seen = Seen(3)
    assert [seen.begin(token, 0) for token in "abca"] == [True, True, True, False]
    assert seen.begin("d", 1) and seen.begin("a", 1)
    assert seen.begin("b", 1_000)
    assert MOST_TOKENS >= 10_000


async def test_who_answers_stop_is_heard_in_every_partition() -> None:
    url = "https://notify.example/callbacks/main"
    stop = signing.twilio(url, From="+15550100", Body="STOP", SmsStatus="received")
    post = Post(stop, Channel.SMS)
    assert (await post.bring(stop)).status_code == 204
    await post.bring(signing.twilio(url, From="+15550100", Body="START", SmsStatus="received"))
    assert [one.everywhere for one in post.broker.sent] == [True, True]
    assert [(one.kind, one.target_id, one.user_id) for one in post.broker.signals] == [
        (SUPPRESS, phone_id("+1 555 0100"), ""), (LIFT, phone_id("0015550100"), "")
    ]  # fmt: skip
    assert (post.counted("stop"), post.counted("start")) == (1, 1)


async def test_a_certificate_that_cannot_be_had_is_no_fault_of_the_vendor() -> None:
    post = Post(signing.ses(web=Web(b"none")))
    assert (await post.bring(signing.ses())).status_code == 401


async def test_the_form_is_believed_by_the_public_address_and_not_by_the_local_one() -> None:
    signed = signing.twilio(MessageStatus="delivered")
    assert (
        signed.callback.url.startswith("https://notify.example/")
        and signed.callback.headers["content-type"] == FORM
    )
    local = signing.twilio(f"{HOST}/callbacks/main?ref={REFERENCE}", MessageStatus="delivered")
    post = Post(signed, Channel.SMS)
    assert (await post.bring(signed)).status_code == 204
    assert (await post.bring(local)).status_code == 401


def test_providers_that_cannot_be_believed_have_no_way_in() -> None:
    assert calling(given()) == {}


class Told:
    """A provider's settings as any kind may have them."""

    def __init__(self, kind: str, **fields: str) -> None:
        self.kind = kind
        self.__dict__.update(fields)


def _settings(**providers: Told) -> Settings:
    settings = given()
    email = settings.channels[Channel.EMAIL].model_copy(update={"providers": providers})
    sms = settings.channels[Channel.SMS].model_copy(
        update={"providers": {"two": Told("twilio", auth_token="x")}}
    )
    return settings.model_copy(update={"channels": {Channel.EMAIL: email, Channel.SMS: sms}})


def test_providers_with_what_it_takes_are_believed_by_their_name() -> None:
    found = calling(
        _settings(one=Told("mailgun", webhook_signing_key="x"), none=Told("ses"), other=Told("smtp"))
    )
    assert {name: one.channel for name, one in found.items()} == {"one": Channel.EMAIL, "two": Channel.SMS}
    with pytest.raises(SettingsError, match=r"channels.sms.providers.two: another provider"):
        calling(_settings(two=Told("mailgun", webhook_signing_key="x")))
    with pytest.raises(SettingsError, match=r"channels.email.providers.one.webhook_public_key: not a"):
        calling(_settings(one=Told("sendgrid", webhook_public_key="x")))
