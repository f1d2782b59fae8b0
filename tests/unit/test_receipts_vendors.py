"""Callbacks: what a vendor signed is read in our words; nobody believes what it did not, or long ago."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.receipts import mailgun as of_mailgun
from pipeline.receipts import resend as of_resend
from pipeline.receipts import sendgrid as of_sendgrid
from pipeline.receipts import ses as of_ses
from pipeline.receipts import twilio as of_twilio
from pipeline.receipts import vonage as of_vonage
from pipeline.receipts.receipt import Callback, Forged, Later, Receipt, Stale, Unclear, Wish, told
from pipeline.receipts.sendgrid import SIGNATURE, TIMESTAMP, SendGrid
from pipeline.receipts.ses import SES
from pipeline.receipts.twilio import Twilio
from schemas.kinds import State
from tests.journeys.memory import NOON
from tests.unit import signing
from tests.unit.signing import REFERENCE, SECRET, TOPIC, URL, Signed, Web

SENT: dict[str, Callable[[], Signed]] = {
    "sendgrid": lambda: signing.sendgrid(signing.a_sendgrid_event("delivered")),
    "ses": lambda: signing.ses(delivery={"timestamp": "2026-09-21T13:33:21.000Z"}),
    "twilio": lambda: signing.twilio(MessageStatus="delivered", MessageSid="SM1"),
    "vonage": lambda: signing.vonage(status="delivered", client_ref=REFERENCE, messageId="v-1"),
    "vonage, by token": signing.vonage_token,
    "mailgun": signing.mailgun,
    "resend": signing.resend,
}


class Failing(Web):
    """Where nothing can be had, after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    async def __call__(self, url: str) -> bytes:
        self.asked.append(url)
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(3):
            await asyncio.sleep(0)
        self.now -= 1
        raise Later("the vendor answered 503")


def only(signed: Signed) -> Receipt:
    [word] = signed.vendor.read(signed.callback)
    assert isinstance(word, Receipt)
    return word


@pytest.mark.parametrize("name", SENT)
async def test_what_is_signed_is_believed_and_read(name: str) -> None:
    signed = SENT[name]()
    await signed.vendor.verify(signed.callback)
    assert only(signed)[:2] == (REFERENCE, State.DELIVERED)


@pytest.mark.parametrize("name", sorted(set(SENT) - {"mailgun"}))
async def test_a_changed_body_is_forged(name: str) -> None:
    signed = SENT[name]()
    changed = signed.callback._replace(body=signed.callback.body.replace(b"elivered", b"eliverec"))
    if changed == signed.callback:  # SES says it in another word
        changed = signed.callback._replace(body=signed.callback.body.replace(b"Delivery", b"Bounce!!"))
    assert changed != signed.callback
    with pytest.raises(Forged):
        await signed.vendor.verify(changed)


@pytest.mark.parametrize("name", SENT)
async def test_a_request_without_its_signature_is_forged(name: str) -> None:
    vendor, callback = SENT[name]()
    bare = callback._replace(headers={"content-type": callback.headers["content-type"]})
    if callback.body[:1] == b"{":
        body = orjson.loads(callback.body)
        body.pop("Signature", None)
        body.pop("signature", None)
        bare = bare._replace(body=orjson.dumps(body))
    else:
        bare = bare._replace(body=callback.body.partition(b"&sig=")[0])
    with pytest.raises(Forged):
        await vendor.verify(bare)


@pytest.mark.parametrize(
    ("name", "sent", "tolerated"),
    [
        ("sendgrid", lambda at: signing.sendgrid(at=at), 300),
        ("mailgun", lambda at: signing.mailgun(at=at), 300),
        ("resend", lambda at: signing.resend(at=at), 300),
        ("vonage", lambda at: signing.vonage(at=at), 300),
        ("vonage, by token", lambda at: signing.vonage_token(at=at), 300),
        ("ses", lambda at: signing.ses(at=at), 3_900),
    ],
)
async def test_what_was_signed_at_another_time_is_stale(
    name: str, sent: Callable[[float], Signed], tolerated: float
) -> None:
    for off in (-tolerated, tolerated):
        signed = sent(signing.NOW + off)
        await signed.vendor.verify(signed.callback)
        signed = sent(signing.NOW + off * 1.1)
        with pytest.raises(Stale):
            await signed.vendor.verify(signed.callback)


# -- SendGrid


async def test_the_published_example_of_sendgrid_is_believed() -> None:
    """github.com/sendgrid/sendgrid-python, test/unit/test_eventwebhook.py."""
    vendor = SendGrid(
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNN"
        "RaINXvVpiglSI8eNEc6wEA3F+g=="
    )
    body = (
        b'[{"email":"hello@world.com","event":"dropped","reason":"Bounced Address",'
        b'"sg_event_id":"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",'
        b'"sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",'
        b'"smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>","timestamp":1600112492}]\r\n'
    )
    signature = (
        "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM="
    )
    callback = Callback(URL, {SIGNATURE: signature, TIMESTAMP: "1600112502"}, body, 1_600_112_510)
    await vendor.verify(callback)
    with pytest.raises(Forged):
        await vendor.verify(callback._replace(body=body.rstrip()))
    with pytest.raises(Forged):
        await vendor.verify(callback._replace(headers={SIGNATURE: signature, TIMESTAMP: "1600112503"}))
    with pytest.raises(Stale):
        await vendor.verify(callback._replace(now=1_600_113_000))


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"event": "bounce", "type": "bounce", "status": "5.1.1"}, State.BOUNCED),
        ({"event": "bounce", "type": "blocked", "status": "5.7.1"}, State.FAILED),
        ({"event": "bounce", "type": "bounce", "status": "4.2.2"}, State.FAILED),
        ({"event": "dropped", "reason": "Bounced Address"}, State.BOUNCED),
        ({"event": "dropped", "reason": "Spam Reporting Address"}, State.COMPLAINED),
        ({"event": "dropped", "reason": "Invalid"}, State.FAILED),
        ({"event": "group_unsubscribe"}, State.UNSUBSCRIBED),
        ({"event": "deferred"}, None),
        ({"event": "of next year"}, None),
        ({"event": ["open"]}, None),
        ({"event": "open", "carillon": None}, None),
    ],
)
def test_events_of_sendgrid_in_our_words(fields: dict[str, Any], state: State | None) -> None:
    words = signing.sendgrid(signing.a_sendgrid_event("x") | fields)
    found = words.vendor.read(words.callback)
    assert [word.state for word in found if isinstance(word, Receipt)] == ([] if state is None else [state])


def test_several_events_come_in_one_request_and_those_of_others_are_left_out() -> None:
    events = [signing.a_sendgrid_event("open"), {"event": "open"}, 7, signing.a_sendgrid_event("click")]
    signed = signing.sendgrid(*events)  # type: ignore[arg-type]  # one of them is no event
    found = [word.state for word in signed.vendor.read(signed.callback) if isinstance(word, Receipt)]
    assert found == [State.OPENED, State.CLICKED]


@pytest.mark.parametrize(
    "key", ["", "no key", "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="]
)
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        SendGrid(key)


# -- Twilio


@pytest.mark.parametrize("port", ["", ":443"])
async def test_the_published_example_of_twilio_is_believed(port: str) -> None:
    """twilio.com/docs/usage/security; the same request and signature stand in the tests of its libraries."""
    url, body = (
        f"https://mycompany.com{port}/myapp.php?foo=1&bar=2",
        (
            b"CallSid=CA1234567890ABCDE&Caller=%2B14158675309&Digits=1234&From=%2B14158675309&To=%2B18005551212"
        ),
    )
    headers = {"x-twilio-signature": "RSOYDt4T1cUTdK1PDd93/VVr8B8="}
    callback = Callback(url, headers, body, signing.NOW)
    await Twilio("12345").verify(callback)
    for wrong in (
        callback._replace(body=body + b"&More=1"), callback._replace(url=url + "&more=1"),
        callback._replace(headers={"x-twilio-signature": "ü"}),
    ):  # fmt: skip
        with pytest.raises(Forged):
            await Twilio("12345").verify(wrong)
    with pytest.raises(Forged):
        await Twilio("12346").verify(callback)


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        ("undelivered", "30003", State.FAILED),
        ("undelivered", "30005", State.BOUNCED),
        ("failed", "30006", State.BOUNCED),
        ("failed", "21610", State.UNSUBSCRIBED),
        ("failed", "99999", State.FAILED),
        ("delivered", "", State.DELIVERED),
        ("sent", "", None),
        ("of next year", "", None),
    ],
)
def test_statuses_of_twilio_in_our_words(status: str, code: str, state: State | None) -> None:
    signed = signing.twilio(MessageStatus=status, ErrorCode=code)
    found = signed.vendor.read(signed.callback)
    assert [word.state for word in found if isinstance(word, Receipt)] == ([] if state is None else [state])


@pytest.mark.parametrize(
    ("fields", "stop"),
    [
        ({"Body": "STOP"}, True),
        ({"Body": " stop. "}, True),
        ({"Body": "Unsubscribe"}, True),
        ({"Body": "arrêt", "OptOutType": "STOP"}, True),
        ({"Body": "start"}, False),
        ({"Body": "stop by at eight"}, None),
        ({"Body": "HELP", "OptOutType": "HELP"}, None),
        ({"Body": ""}, None),
    ],
)
def test_who_answers_stop_wants_no_more_messages(fields: dict[str, str], stop: bool | None) -> None:
    signed = signing.twilio(URL, From="+15550100", SmsStatus="received", **fields)
    assert signed.vendor.read(signed.callback) == ([] if stop is None else [Wish("+15550100", stop)])


# -- Vonage


@pytest.mark.parametrize("method", ["md5hash", "md5", "sha1", "sha256", "sha512"])
async def test_every_method_of_vonage_is_believed(method: str) -> None:
    signed = signing.vonage(method=method, status="failed", err_code="1", client_ref="a&b=c")
    await signed.vendor.verify(signed.callback)


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [("failed", "3", State.BOUNCED), ("rejected", "9", State.UNSUBSCRIBED), ("expired", "2", State.FAILED),
     ("buffered", "0", None)],
)  # fmt: skip
def test_receipts_of_vonage_in_our_words(status: str, code: str, state: State | None) -> None:
    signed = signing.vonage(
        status=status, err_code=code, client_ref=REFERENCE, message_timestamp="2026-09-21 14:13:20"
    )
    found = signed.vendor.read(signed.callback)
    assert [word.state for word in found if isinstance(word, Receipt)] == ([] if state is None else [state])
    assert all(isinstance(word, Receipt) and word.at == NOON for word in found)


def test_who_answers_stop_over_vonage_is_heard_too() -> None:
    signed = signing.vonage(msisdn="15550100", to="15550006", text="Stop", messageId="1")
    assert signed.vendor.read(signed.callback) == [Wish("15550100", True)]


async def test_a_token_of_another_kind_is_forged() -> None:
    vendor, callback = signing.vonage_token()
    unsigned = signing.vonage_token(algorithm="none").callback
    other = signing.vonage_token(algorithm="HS512").callback
    empty = callback._replace(headers={**callback.headers, "authorization": "Bearer "})
    for wrong in (unsigned, other, empty):
        with pytest.raises(Forged):
            await vendor.verify(wrong)


async def test_a_token_signs_the_body_alone() -> None:
    vendor, callback = signing.vonage_token()
    asked = f"status=failed&client-ref={'f' * 8}&err-code=9&msisdn=15550100"
    other = callback._replace(url=f"{callback.url}?{asked}")
    await vendor.verify(other)
    assert vendor.read(other) == vendor.read(callback) != []


# -- Mailgun


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"severity": "temporary", "reason": "generic"}, None),
        ({"severity": "permanent", "reason": "bounce"}, State.BOUNCED),
        ({"severity": "permanent", "reason": "suppress-bounce"}, State.BOUNCED),
        ({"severity": "permanent", "reason": "suppress-complaint"}, State.COMPLAINED),
        ({"severity": "permanent", "reason": "old"}, State.FAILED),
    ],
)
def test_failures_of_mailgun_in_our_words(fields: dict[str, Any], state: State | None) -> None:
    signed = signing.mailgun("failed", **fields)
    found = signed.vendor.read(signed.callback)
    assert [word.state for word in found if isinstance(word, Receipt)] == ([] if state is None else [state])


async def test_a_token_of_mailgun_is_named_so_that_a_copy_is_known() -> None:
    signed = signing.mailgun(token="abc")
    assert signed.vendor.once(signed.callback) == "abc"
    other = signing.mailgun(at=signing.NOW - 1)
    forged = orjson.loads(signed.callback.body) | {
        "signature": orjson.loads(other.callback.body)["signature"]
    }
    forged["signature"]["token"] = "another"
    with pytest.raises(Forged):
        await signed.vendor.verify(signed.callback._replace(body=orjson.dumps(forged)))


# -- Resend


@pytest.mark.parametrize(
    ("type", "fields", "state"),
    [
        ("email.bounced", {"bounce": {"type": "Permanent", "subType": "General"}}, State.BOUNCED),
        ("email.bounced", {"bounce": {"type": "Transient", "subType": "MailboxFull"}}, State.FAILED),
        ("email.bounced", {}, State.FAILED),
        ("email.suppressed", {"suppressed": {"reason": "previous_bounce"}}, State.BOUNCED),
        ("email.suppressed", {"suppressed": {"reason": "previous_complaint"}}, State.COMPLAINED),
        ("email.failed", {"failed": {"reason": "reached_daily_quota"}}, State.FAILED),
        ("email.complained", {}, State.COMPLAINED),
        ("email.delivery_delayed", {}, None),
        ("email.of_next_year", {}, None),
        ("email.opened", {"tags": [{"name": "carillon"}]}, None),
    ],
)
def test_events_of_resend_in_our_words(type: str, fields: dict[str, Any], state: State | None) -> None:
    signed = signing.resend(type, **fields)
    found = signed.vendor.read(signed.callback)
    assert [word.state for word in found if isinstance(word, Receipt)] == ([] if state is None else [state])


async def test_another_id_or_secret_of_resend_is_forged() -> None:
    signed = signing.resend()
    headers = {**signed.callback.headers, of_resend.ID: "msg_2"}
    with pytest.raises(Forged):
        await signed.vendor.verify(signed.callback._replace(headers=headers))
    with pytest.raises(Forged):
        await of_resend.Resend("whsec_b3RoZXI=").verify(signed.callback)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_?"])
def test_a_secret_of_resend_is_base64(secret: str) -> None:
    with pytest.raises(ValueError, match="not a whsec"):
        of_resend.Resend(secret)


# -- SES


async def test_the_certificate_is_fetched_once() -> None:
    web = Web()
    vendor, callback = signing.ses(web=web)
    await vendor.verify(callback)
    await vendor.verify(callback)
    assert web.asked == [signing.CERTIFICATE]


def numbered(n: int) -> str:
    return signing.CERTIFICATE.replace("SimpleNotificationService-", f"SimpleNotificationService-{n}x")


async def test_a_certificate_that_could_not_be_had_is_left_alone_for_a_minute() -> None:
    for web, error in ((Web(b"none"), Forged), (Failing(), Later)):
        vendor, callback = signing.ses(web=web)
        for _ in range(3):
            with pytest.raises(error):
                await vendor.verify(callback)
        assert len(web.asked) == 1
        with pytest.raises(error):
            await vendor._key(signing.CERTIFICATE, callback.now + 61)  # type: ignore[attr-defined]  # of SES
        assert len(web.asked) == 2


async def test_what_is_known_of_failures_has_a_bound() -> None:
    web = Failing()
    vendor = SES(TOPIC, web)
    for n in range(of_ses.MOST_FAILURES + 50):
        with pytest.raises(Later):
            await vendor._key(numbered(n), NOON / 1000)
    assert len(vendor._failed) == of_ses.MOST_FAILURES


async def test_no_more_than_two_certificates_are_fetched_at_a_time() -> None:
    web = Failing()
    vendor = SES(TOPIC, web)
    calls = [asyncio.create_task(vendor._key(numbered(n % 8), NOON / 1000)) for n in range(16)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, Later) for one in found)
    assert (web.most, len(web.asked)) == (2, 8)  # each of them once


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-01.pem",
        "https://sns.eu-west-1.amazonaws.com.evil.example/SimpleNotificationService-01.pem",
        "https://evil.example/https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-01.pem",
        "https://sns.eu-west-1.amazonaws.com@evil.example/SimpleNotificationService-01.pem",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-01.pem",
        "https://sns.eu-west-1.amazonaws.com:8443/SimpleNotificationService-01.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-01.pem?x=1",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-01.pem\n",
        "https://bucket.s3.amazonaws.com/SimpleNotificationService-01.pem",
    ],
)
async def test_a_certificate_from_elsewhere_is_not_even_asked_for(url: str) -> None:
    web = Web()
    signed = signing.sns({"SigningCertURL": url}, web=web)
    with pytest.raises(Forged):
        await signed.vendor.verify(signed.callback)
    assert not web.asked


@pytest.mark.parametrize("body", [b"", b"no certificate", signing.certificate(days=-1)])
async def test_a_certificate_that_is_none_or_has_run_out_is_not_believed(body: bytes) -> None:
    signed = signing.ses(web=Web(body))
    with pytest.raises(Forged):
        await signed.vendor.verify(signed.callback)


async def test_a_signature_of_version_1_and_another_topic_are_not_believed() -> None:
    for wrong in (
        signing.sns({}, version="1"),
        signing.sns({"TopicArn": TOPIC + "-2"}),
        signing.sns({"Type": "X"}),
    ):
        with pytest.raises(Forged):
            await wrong.vendor.verify(wrong.callback)


CONFIRM = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=x&Token=y"


@pytest.mark.parametrize(
    ("url", "asked"),
    [(CONFIRM, [signing.CERTIFICATE, CONFIRM]), (CONFIRM.replace("sns.", "evil."), [signing.CERTIFICATE]),
     ("http://169.254.169.254/?Action=ConfirmSubscription&", [signing.CERTIFICATE])],
)  # fmt: skip
async def test_a_subscription_is_confirmed_at_sns_and_nowhere_else(url: str, asked: list[str]) -> None:
    web = Web()
    vendor, callback = signing.sns(
        {"Type": "SubscriptionConfirmation", "SubscribeURL": url, "Token": "y"}, web=web
    )
    await vendor.verify(callback)
    assert vendor.read(callback) == []
    if url == CONFIRM:
        await vendor.acknowledge(callback)
    else:
        with pytest.raises(Forged):
            await vendor.acknowledge(callback)
    assert web.asked == asked


async def test_a_certificate_that_cannot_be_had_now_is_asked_for_again() -> None:
    async def away(url: str) -> bytes:
        raise Later("away")

    with pytest.raises(Later):
        await SES(TOPIC, away).verify(signing.ses().callback)


@pytest.mark.parametrize(
    ("event", "fields", "state"),
    [
        ("Bounce", {"bounce": {"bounceType": "Permanent", "bounceSubType": "General"}}, State.BOUNCED),
        ("Bounce", {"bounce": {"bounceType": "Transient", "bounceSubType": "MailboxFull"}}, State.FAILED),
        ("Bounce", {"bounce": None}, State.FAILED),
        ("Complaint", {"complaint": {"complaintFeedbackType": "abuse"}}, State.COMPLAINED),
        ("Reject", {"reject": {"reason": "Bad content"}}, State.FAILED),
        ("Send", {}, None),
    ],
)
def test_events_of_ses_in_our_words(event: str, fields: dict[str, Any], state: State | None) -> None:
    signed = signing.ses(event, **fields)
    found = signed.vendor.read(signed.callback)
    assert [word.state for word in found if isinstance(word, Receipt)] == ([] if state is None else [state])


# -- all of them

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["event", "carillon", "timestamp", "signature", "event-data", "status", "Type", "Message", "text",
             "delivery-status", "user-variables", "error", "MessageStatus", "token"]
        ) | st.text(max_size=3),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(ANYTHING)
def test_whatever_a_body_holds_reading_it_ends_well(value: Any) -> None:
    body = orjson.dumps(value)
    for make in SENT.values():
        vendor, callback = make()
        for kind in ("application/json", signing.FORM):
            try:
                vendor.read(callback._replace(body=body, headers={"content-type": kind}))
            except Unclear:
                continue


@given(st.binary(max_size=60))
def test_no_bytes_break_a_reader(body: bytes) -> None:
    for make in SENT.values():
        vendor, callback = make()
        try:
            vendor.read(callback._replace(body=body))
        except Unclear:
            continue


@pytest.mark.parametrize("module", [of_sendgrid, of_ses, of_mailgun, of_resend, of_twilio, of_vonage])
def test_a_vendor_says_no_more_than_receivers_can(module: Any) -> None:
    after = {State.DELIVERED, State.OPENED, State.CLICKED, State.FAILED, State.BOUNCED, State.COMPLAINED}
    assert set(module.STATES.values()) <= after | {State.UNSUBSCRIBED, None}


def test_no_address_stands_in_what_is_kept_of_a_receipt() -> None:
    said = "550 5.1.1 <ada@example.com>: no such\r\nuser; call +1 (555) 010-0100 or 15550100100"
    found = told(Receipt(REFERENCE, State.BOUNCED, code="5.1.1", detail=said))
    assert found is not None and found.startswith("5.1.1: 550 5.1.1 <•••>: no such user")
    assert "ada" not in found and "15550100100" not in found and "010-0100" not in found


def test_secrets_that_are_empty_are_refused() -> None:
    for make in (lambda: Twilio(""), lambda: of_mailgun.Mailgun(""), lambda: of_vonage.Vonage("")):
        with pytest.raises(ValueError, match="empty"):
            make()
    with pytest.raises(ValueError, match="ARN"):
        SES("receipts", Web())
    assert SECRET
