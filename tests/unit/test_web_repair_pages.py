"""Dead letters and replays for people: what the pages say, and whose forms they take."""

import re
from collections import Counter
from collections.abc import AsyncIterator
from html import unescape
from urllib.parse import urlencode

import httpx
import pytest
from aiokafka.errors import KafkaConnectionError

from agents.narrow import Narrowing
from agents.replay import Prospect
from pipeline.replay import READS, Misused
from pipeline.replays import Request, Resolved
from pipeline.web import replays
from pipeline.web.replays import packed
from pipeline.web.session import SEAL_SECONDS, Sessions
from schemas.ids import notification_id
from schemas.kinds import State
from tests.browser.desk import NOON, SOURCE, TOKEN, XSS, Office
from tests.browser.repairs import GENERATION
from tests.unit.test_web_pages import Tags, is_harmless, look

ONE = Request("core", narrowing=Narrowing(users=frozenset(["ada"])))
FORMS = ("/console/dlq/redrive", "/console/replay", "/console/replay/ask")


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
async def browser(office: Office) -> AsyncIterator[httpx.AsyncClient]:
    """One that is signed in by a session."""
    transport = httpx.ASGITransport(office.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        await client.get("/console/tables", params={"token": TOKEN})
        yield client


def hidden(page: str, action: str) -> dict[str, str]:
    """The hidden fields of a form."""
    (form,) = re.findall(rf'<form[^>]*action="{action}".*?</form>', page, re.DOTALL)
    return {
        attributes["name"]: attributes["value"]
        for tag, attributes in Tags(form).elements
        if tag == "input" and attributes.get("type") == "hidden"
    }


def filled(page: str) -> dict[str, str]:
    """What the visible fields of the form of replays hold."""
    (form,) = re.findall(r'<form[^>]*action="/console/replay".*?</form>', page, re.DOTALL)
    found = {
        attributes["name"] or "": attributes.get("value") or ""
        for tag, attributes in Tags(form).elements
        if tag == "input" and attributes.get("type") not in ("hidden", "checkbox")
    }
    for name, value in re.findall(r'<textarea id="([^"]+)".*?>\n(.*?)</textarea>', form, re.DOTALL):
        found[name] = unescape(value)
    (found["group"],) = re.findall(r"<option selected>([^<]+)<", form)
    return found


def text(page: str) -> str:
    return re.sub(r"[ \n]+", " ", Tags(page).text)


# -- dead letters


async def test_the_list_shows_counts_letters_and_where_to_go_on(office: Office) -> None:
    for n in range(60):
        office.shelf.put("dlq-email", at=NOON + n, reason="refused" if n % 2 else "retries_exhausted")
    office.shelf.put(at=NOON + 99)
    page = await look(office, "/console/dlq")
    is_harmless(page)
    assert 'data-held="dlq-email">60<' in page and 'data-held="dlq-events">1<' in page
    assert "retries exhausted 30" in text(page)
    assert page.index("dlq-events-0-0") < page.index("dlq-email-0-59") < page.index("dlq-email-0-58")
    assert "dlq-email-0-5<" not in page
    (on,) = re.findall(r'rel="next" href="([^"]+)"', page)
    rest = await look(office, on.replace("&amp;", "&"))
    assert "dlq-email-0-5<" in rest and "From the first" in rest and 'rel="next"' not in rest
    assert 'action="/console/dlq/redrive"' not in page, "nobody puts everything back by a slip"


async def test_the_list_is_filtered(office: Office) -> None:
    office.shelf.put("dlq-email", reason="refused", source="email-notifications")
    office.shelf.put("dlq-email", reason="raised", at=NOON + 60_000)
    for query, names in (
        ("topic=dlq-sms", []),
        ("reason=refused", ["dlq-email-0-0"]),
        ("since=2026-09-21+14:14", ["dlq-email-0-1"]),
        ("until=2026-09-21T14:14:00Z&topic=dlq-email", ["dlq-email-0-0"]),
    ):
        page = await look(office, f"/console/dlq?{query}")
        assert re.findall(r'href="/console/dlq/([^"]+)"', page) == names, query
    assert "No letter fits" in await look(office, "/console/dlq?topic=dlq-sms")


async def test_the_list_shows_who_was_called_last_and_the_vendors_code_and_leads_to_their_like(
    office: Office,
) -> None:
    office.shelf.put("dlq-sms", provider="main", code="21610", source="sms-notifications")
    office.shelf.put("dlq-sms", provider="main", code="30007", source="sms-notifications")
    office.shelf.put("dlq-sms", provider="backup", code="30007", source="sms-notifications")
    page = await look(office, "/console/dlq")
    is_harmless(page)
    assert "<td>backup</td>" in page and '<td class="id">21610</td>' in page
    for query, letters in (
        ("provider=main&code=21610", [0]),
        ("code=30007", [2, 1]),
        ("code=30*,+21610", [2, 1, 0]),
        ("provider=backup&code=21610", []),
    ):
        page = await look(office, f"/console/dlq?{query}")
        found = re.findall(r'href="/console/dlq/dlq-sms-0-(.)"', page)
        assert sorted(found) == sorted(map(str, letters)), query
        assert ('action="/console/dlq/redrive"' in page) == bool(letters)
    one = await look(office, "/console/dlq/dlq-sms-0-0")
    assert 'href="/console/dlq?provider=main&amp;code=21610"' in one
    said = text(one)
    assert "Providermain" in said and "Vendor's code21610" in said


async def test_what_a_form_hands_to_another_provider_goes_to_it(
    office: Office, browser: httpx.AsyncClient
) -> None:
    for n in range(2):
        office.shelf.put("dlq-email", value=b"%d" % n, provider="main", code="550",
                         source="email-notifications")  # fmt: skip
    page = (await browser.get("/console/dlq?provider=main&code=550")).text
    assert "<option>outbox</option>" in page
    asked = {**hidden(page, "/console/dlq/redrive"), "to_provider": "outbox"}
    counted = (await browser.post("/console/dlq/redrive", data=asked)).text
    is_harmless(counted)
    assert "To be sent byoutbox" in text(counted) and office.shelf.back == []
    again = hidden(counted, "/console/dlq/redrive")
    assert (again["to_provider"], again["provider"], again["code"]) == ("outbox", "main", "550")
    done = await browser.post("/console/dlq/redrive", data=again)
    assert done.status_code == 303
    assert [dict(one.headers)["provider"] for one in office.shelf.back] == [b"outbox"] * 2
    one = (await browser.get("/console/dlq/dlq-email-0-0")).text
    asked = {**hidden(one, "/console/dlq/redrive"), "to_provider": "nobody"}
    refused = await browser.post("/console/dlq/redrive", data=asked)
    assert refused.status_code == 422 and "dlq-email outbox" in text(refused.text)
    assert len(office.shelf.back) == 2


@pytest.mark.parametrize(
    "query",
    [
        "since=soon",
        f"code={','.join(map(str, range(21)))}",
        "until=99999-01-01",
        "topic=events",
        "cursor=x",
    ],
)
async def test_a_filter_that_makes_no_sense_is_said_to_make_none(office: Office, query: str) -> None:
    page = await look(office, f"/console/dlq?{query}", 422)
    is_harmless(page)
    assert 'role="alert"' in page or "That cannot be asked" in page or "No such page" in page


async def test_no_dead_letter_is_good_news(office: Office) -> None:
    assert "There is no dead letter" in await look(office, "/console/dlq")


async def test_a_letter_says_why_in_words_and_leads_on(office: Office) -> None:
    id_ = notification_id("ada", SOURCE, "order-1", "orders")
    name = office.shelf.put(
        "dlq-email", value=b'{"id": "%s"}' % id_.encode(), reason="refused", error="550 no such mailbox"
    )
    page = await look(office, f"/console/dlq/{name}")
    is_harmless(page)
    said = text(page)
    assert "The provider refused the message for good." in said and "550 no such mailbox" in said
    assert f'href="/console/notifications/{id_}"' in page
    assert "source-topic" in said
    event = office.shelf.put(value=b'{"specversion":"1.0","id":"e 1","source":"s","type":"t"}')
    assert 'href="/console/events?source=s&amp;id=e+1"' in await look(office, f"/console/dlq/{event}")


async def test_a_letter_that_is_not_there_has_a_page_that_says_so(office: Office) -> None:
    for name in ("x", "dlq-sms-0-0"):
        await look(office, f"/console/dlq/{name}", 404)


@pytest.mark.parametrize("evil", [*XSS, "\x1b[2J", "\x00", "\N{RIGHT-TO-LEFT OVERRIDE}gpj"])
async def test_whatever_a_letter_holds_is_text(office: Office, evil: str) -> None:
    told = evil.encode()
    headers = [("reason", told), ("error", told), ("source-topic", told), ("source-partition", b"0"),
               ("source-offset", b"1"), ("failed-at", b"2026-01-01T00:00:00Z"), ("attempts", told),
               ("provider", told), ("code", told), (evil, told)]  # fmt: skip
    name = office.shelf.put(value=told, told=headers)
    for path in ("/console/dlq", f"/console/dlq/{name}"):
        page = await look(office, path)
        is_harmless(page)
        assert "\x1b" not in page and "\x00" not in page
        assert "<script>d" not in page and "<svg" not in page and "<iframe" not in page


async def test_a_long_letter_is_cut_off(office: Office) -> None:
    name = office.shelf.put(value=b"a" * 50_000)
    page = await look(office, f"/console/dlq/{name}")
    assert len(page) < 40_000 and "30\u2009000 are left out" in text(page)


# -- putting back


async def test_one_letter_is_put_back_by_a_form(office: Office, browser: httpx.AsyncClient) -> None:
    name = office.shelf.put()
    fields = hidden((await browser.get(f"/console/dlq/{name}")).text, "/console/dlq/redrive")
    found = await browser.post("/console/dlq/redrive", data=fields)
    assert found.status_code == 303 and len(office.shelf.back) == 1
    page = (await browser.get(found.headers["location"])).text
    assert "1 letter put back" in text(page)
    is_harmless(page)


async def test_a_letter_without_a_source_has_no_form(office: Office) -> None:
    name = office.shelf.put(told=[("reason", b"raised")])
    page = await look(office, f"/console/dlq/{name}")
    assert "cannot be put back" in page and "<button>Put it back" not in page


async def test_those_of_a_filter_are_counted_first_and_exactly_these_go_back(
    office: Office, browser: httpx.AsyncClient
) -> None:
    for n in range(3):
        office.shelf.put(reason="refused", value=b"%d" % n)
    office.shelf.put(reason="raised")
    office.shelf.put(reason="refused", told=[("reason", b"refused")])
    page = (await browser.get("/console/dlq?reason=refused")).text
    counted = (await browser.post("/console/dlq/redrive", data=hidden(page, "/console/dlq/redrive"))).text
    is_harmless(counted)
    assert "go back to the topic that they came from3" in text(counted)
    assert "do not say where it came from" in text(counted)
    assert office.shelf.back == []
    office.shelf.put(reason="refused", value=b"came since")
    asked = hidden(counted, "/console/dlq/redrive")
    done = await browser.post("/console/dlq/redrive", data=asked)
    assert [one.value for one in office.shelf.back] == [b"0", b"1", b"2"]
    said = text((await browser.get(done.headers["location"])).text)
    assert "3 letters put back; 1 not: dlq-events-0-4, its headers do not say where it came from" in said


async def test_a_made_up_note_is_not_shown(office: Office) -> None:
    seal = Sessions("another token", office.clock).seal("redriven", {"redriven": 9})
    for note in ("x", ".", seal, Sessions(TOKEN, office.clock).seal("replay", {"redriven": 9})):
        page = await look(office, f"/console/dlq?done={note}")
        assert "9 letters" not in page and 'class="note' not in page


# -- replay


async def test_a_replay_is_foreseen_and_then_asked_for_as_it_was_resolved(
    office: Office, browser: httpx.AsyncClient
) -> None:
    first = hidden((await browser.get("/console/replay")).text, "/console/replay")
    page = (await browser.post("/console/replay", data={**first, "group": "core", "to": "earliest"})).text
    is_harmless(page)
    said = text(page)
    for line in ("4\u2009800", "decided already: nothing will be sent12", "template_failed: no.thing6",
                 "never decided: would be now1"):  # fmt: skip
        assert line in said, line
    assert office.groups.asked == []
    done = await browser.post("/console/replay/ask", data=hidden(page, "/console/replay/ask"))
    assert done.status_code == 303
    (asked,) = office.groups.asked
    assert asked.plan == (await office.groups.resolve(Request("core", to="earliest"))).plan
    assert not asked.narrowing.given
    told = (await browser.get(done.headers["location"])).text
    is_harmless(told)
    assert "carillon-core is asked to begin anew: 4\u2009800 offsets once more" in text(told)


@pytest.mark.parametrize("group", READS)
async def test_every_group_has_its_dry_run(office: Office, browser: httpx.AsyncClient, group: str) -> None:
    first = hidden((await browser.get("/console/replay")).text, "/console/replay")
    found = await browser.post("/console/replay", data={**first, "group": group, "to": "2026-01-01T00:00Z"})
    assert found.status_code == 200
    assert ("It sends nothing" in found.text) == (group == "status")
    assert f"<option selected>{group}</option>" in found.text


async def test_to_skip_ahead_is_warned_of(office: Office, browser: httpx.AsyncClient) -> None:
    first = hidden((await browser.get("/console/replay")).text, "/console/replay")
    plain = office.groups.resolve

    async def behind(request: Request) -> Resolved:
        found = await plain(request)
        spans = [span._replace(committed=10) for span in found.plan.spans]
        return found._replace(plan=found.plan._replace(spans=spans))

    office.groups.resolve = behind  # type: ignore[method-assign]
    page = (await browser.post("/console/replay", data={**first, "group": "email", "to": "latest"})).text
    assert "What is passed over is never sent" in text(page)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"group": "core", "to": ""}, "to"),
        ({"group": "core", "to": "7"}, "to"),
        ({"group": "core", "to": "soon"}, "to"),
        ({"group": "core", "to": "²"}, "to"),
        ({"group": "cores", "to": "earliest"}, "group"),
        ({}, "group"),
        ({"group": "status", "users": "ada"}, "group"),
        ({"group": "core", "source": "s"}, "event"),
        ({"group": "core", "event": "e"}, "event"),
        ({"group": "core", "ids": "none\n"}, "ids"),
        ({"group": "core", "ids": " \r\n "}, "to"),
        ({"group": "core", "reasons": "refused"}, "reasons"),
        ({"group": "core", "to": "earliest", "resend": "yes"}, "resend"),
        ({"group": "email", "users": "ada", "resend": "yes"}, "resend"),
        ({"group": "core", "users": "ada", "generation": "5"}, "generation"),
        ({"group": "core", "users": "ada", "resend": "yes", "generation": "²"}, "generation"),
        ({"group": "core", "users": "ada", "resend": "yes", "generation": "0"}, "generation"),
        ({"group": "core", "users": "ada", "resend": "yes", "generation": "9" * 5_000}, "generation"),
        ({"group": "core", "users": "a" * 40_000}, "users"),
    ],
)
async def test_a_replay_that_makes_no_sense_is_said_at_its_field(
    office: Office, browser: httpx.AsyncClient, fields: dict[str, str], field: str
) -> None:
    first = hidden((await browser.get("/console/replay")).text, "/console/replay")
    found = await browser.post("/console/replay", data={**first, **fields})
    is_harmless(found.text)
    assert found.status_code == 422 and 'role="alert"' in found.text
    (blamed,) = [attributes for _, attributes in Tags(found.text).elements if "aria-invalid" in attributes]
    assert (blamed["id"], (blamed["aria-describedby"] or "").split()[0]) == (field, "wrong")
    assert "--" not in re.findall(r'role="alert">([^<]*)', found.text)[0]
    assert office.groups.foreseen == 0


async def test_what_cannot_be_foreseen_in_time_can_be_asked_for_all_the_same(
    office: Office, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "FORESEE_SECONDS", 0.05)
    office.groups.stuck = True
    first = hidden((await browser.get("/console/replay")).text, "/console/replay")
    found = await browser.post("/console/replay", data={**first, "group": "core", "to": "earliest"})
    assert found.status_code == 503 and "reading: 5 of 10 offsets" in text(found.text)
    await browser.post("/console/replay/ask", data=hidden(found.text, "/console/replay/ask"))
    assert len(office.groups.asked) == 1


async def test_a_narrowed_replay_does_what_was_foreseen_and_twice_the_same(
    office: Office, browser: httpx.AsyncClient
) -> None:
    id_ = notification_id("ada", SOURCE, "order-1", "orders")
    first = hidden((await browser.get("/console/replay")).text, "/console/replay")
    typed = {**first, "group": "core", "source": SOURCE, "event": "order-1", "ids": f"\r\n {id_}\r\n",
             "users": "ada\r\n", "reasons": "expired\r\ntemplate_failed", "resend": "yes"}  # fmt: skip
    page = (await browser.post("/console/replay", data=typed)).text
    is_harmless(page)
    for line in ("notifications are chosen19", "of these were decided12", "would be decided anew"):
        assert line in text(page), line
    assert office.groups.asked == []
    asked = hidden(page, "/console/replay/ask")
    done = [await browser.post("/console/replay/ask", data=asked) for _ in range(2)]
    assert [one.status_code for one in done] == [303, 303]
    first_done, second = office.groups.asked
    assert first_done == second and first_done.generation
    expected = Narrowing(
        frozenset([(SOURCE, "order-1")]), frozenset([id_]), frozenset(["ada"]),
        frozenset(["expired", "template_failed"]),
    )  # fmt: skip
    assert first_done.narrowing == expected
    assert f"as generation {first_done.generation}" in text(page)
    for one, given in zip(done, (19, 0), strict=True):
        told = (await browser.get(one.headers["location"])).text
        is_harmless(told)
        assert f"19 notifications were chosen; {given} are decided anew" in text(told)


async def test_what_is_narrowed_is_given_again_and_no_group_is_moved(
    office: Office, browser: httpx.AsyncClient
) -> None:
    first = hidden((await browser.get("/console/replay")).text, "/console/replay")
    page = (await browser.post("/console/replay", data={**first, "group": "email", "users": "ada"})).text
    for line in ("messages are chosen19", "called already: nothing will be sent12", "given to email again7"):
        assert line in text(page), line
    assert "offsets" not in text(page) and "Partition by partition" not in page
    done = await browser.post("/console/replay/ask", data=hidden(page, "/console/replay/ask"))
    assert "7 are given to email again" in text((await browser.get(done.headers["location"])).text)
    assert [one.generation for one in office.groups.asked] == [0]


async def test_nothing_to_come_of_it_offers_nothing(office: Office, browser: httpx.AsyncClient) -> None:
    office.groups.counted = Counter({Prospect.NOTHING: 12})
    first = hidden((await browser.get("/console/replay")).text, "/console/replay")
    page = (await browser.post("/console/replay", data={**first, "group": "core", "users": "ada"})).text
    assert "Nothing would come of it" in page and "/console/replay/ask" not in page


async def test_what_was_narrowed_and_not_foreseen_in_time_is_not_offered(
    office: Office, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "FORESEE_SECONDS", 0.05)
    office.groups.stuck = True
    first = hidden((await browser.get("/console/replay")).text, "/console/replay")
    found = await browser.post("/console/replay", data={**first, "group": "core", "users": "ada"})
    assert found.status_code == 503 and "reading: 5 of 10 offsets" in text(found.text)
    assert "/console/replay/ask" not in found.text


async def test_what_is_cut_off_says_how_to_go_on(office: Office, browser: httpx.AsyncClient) -> None:
    first = hidden((await browser.get("/console/replay")).text, "/console/replay")
    typed = {**first, "group": "core", "users": "ada", "resend": "yes"}
    page = (await browser.post("/console/replay", data=typed)).text
    for error, status in ((KafkaConnectionError("x"), 503), (Misused("more; choose a later --to"), 422)):
        office.groups.breaks = error
        found = await browser.post("/console/replay/ask", data=hidden(page, "/console/replay/ask"))
        assert found.status_code == status
        is_harmless(found.text)
        assert (f"with generation {GENERATION + 1}" in text(found.text)) == (status == 503)


async def test_pages_lead_to_the_form_with_what_they_are_about(office: Office) -> None:
    id_ = office.tell(State.SENT)
    message = office.shelf.put("dlq-email", value=b'{"id": "%s"}' % id_.encode(), reason="refused")
    event = office.shelf.put(value=b'{"specversion":"1.0","id":"e 1","source":"s","type":"t"}')
    lost = office.shelf.put(value=b"not JSON")
    of_event = {"source": SOURCE, "event": "order-1"}
    for path, label, typed in (
        (f"/console/notifications/{id_}", "Replay this notification", {"group": "core", "ids": id_}),
        (f"/console/notifications/{id_}", "its whole event", of_event),
        (f"/console/events?source={SOURCE}&id=order-1", "Replay this event", of_event),
        (f"/console/dlq/{message}", "Replay this notification", {"group": "email", "ids": id_}),
        (f"/console/dlq/{event}", "Replay this event", {"group": "core", "source": "s", "event": "e 1"}),
    ):  # fmt: skip
        (to,) = re.findall(rf'href="([^"]+)">{label}<', await look(office, path))
        assert filled(await look(office, to.replace("&amp;", "&"))).items() >= typed.items()
    assert "Replay this" not in await look(office, f"/console/dlq/{lost}")


@pytest.mark.parametrize("evil", XSS)
async def test_whatever_an_address_fills_in_is_text_and_does_nothing(office: Office, evil: str) -> None:
    query = dict.fromkeys(("group", "to", "source", "event", "ids", "users", "reasons"), evil)
    page = await look(office, "/console/replay?" + urlencode({**query, "resend": "yes", "generation": "7"}))
    is_harmless(page)
    assert filled(page) == {**query, "group": "core", "generation": ""}
    assert " checked" not in page
    assert office.groups.resolved == 0


async def test_a_dry_run_that_is_long_ago_is_not_acted_on(office: Office, browser: httpx.AsyncClient) -> None:
    first = hidden((await browser.get("/console/replay")).text, "/console/replay")
    page = (await browser.post("/console/replay", data={**first, "group": "core", "to": "earliest"})).text
    office.now += SEAL_SECONDS
    found = await browser.post("/console/replay/ask", data=hidden(page, "/console/replay/ask"))
    assert found.status_code == 403 and "too old" in found.text
    assert office.groups.asked == []


async def test_a_broker_that_is_away_is_a_page_too(office: Office) -> None:
    office.shelf.broken = TimeoutError("the broker did not send the rest of dlq-sms")
    page = await look(office, "/console/dlq", 503)
    is_harmless(page)
    assert "the rest of dlq-sms" in page


# -- whose forms are taken


@pytest.mark.parametrize("path", FORMS)
async def test_a_form_without_this_sessions_token_does_nothing(
    office: Office, browser: httpx.AsyncClient, path: str
) -> None:
    name = office.shelf.put()
    office.now += 1
    another = Sessions(TOKEN, office.clock)
    good = hidden((await browser.get("/console/replay")).text, "/console/replay")["form_token"]
    sealed = another.seal("replay resolved", packed(await office.groups.resolve(ONE)))
    for token in (
        "",
        "x",
        "é",
        TOKEN,
        good[:-1],
        another.form_token(another.issue()),
        another.form_token(""),
    ):
        sent = {"letter": name, "group": "core", "to": "earliest", "plan": sealed, "form_token": token}
        found = await browser.post(path, data=sent)
        assert found.status_code == 403, token
        assert "Nothing was done" in found.text
    assert office.shelf.back == [] and office.groups.asked == [] and office.groups.foreseen == 0


@pytest.mark.parametrize("path", [*FORMS, "/api/v1/dlq/redrive", "/api/v1/replay"])
async def test_what_another_site_sends_does_nothing(
    office: Office, browser: httpx.AsyncClient, path: str
) -> None:
    name = office.shelf.put()
    fields = hidden((await browser.get("/console/replay")).text, "/console/replay")
    sent = {**fields, "letter": name, "letters": [name], "group": "core", "to": "earliest"}
    for headers in (
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:8080"},
        {"origin": "http://evil.example"}, {"origin": "http://127.0.0.1:3000"}, {"origin": "http://127.0.0.1"},
    ):  # fmt: skip
        found = await browser.post(path, data=sent, headers=headers)
        assert found.status_code == 403, headers
    assert office.shelf.back == [] and office.groups.foreseen == 0


async def test_our_own_pages_send_from_here(office: Office, browser: httpx.AsyncClient) -> None:
    name = office.shelf.put()
    fields = hidden((await browser.get(f"/console/dlq/{name}")).text, "/console/dlq/redrive")
    for n, headers in enumerate(
        (
            {"origin": "http://127.0.0.1:8080"}, {"origin": "null"},
            {"origin": "null", "sec-fetch-site": "same-origin"},
        ),
        1,
    ):  # fmt: skip
        found = await browser.post("/console/dlq/redrive", data=fields, headers=headers)
        assert (found.status_code, len(office.shelf.back)) == (303, n)


async def test_programs_send_json_and_nothing_else(office: Office, browser: httpx.AsyncClient) -> None:
    office.shelf.put()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        found = await browser.post(
            "/api/v1/dlq/redrive", content=b'{"topic": "dlq-events"}', headers={"content-type": kind}
        )
        assert found.status_code == 422, kind
    assert office.shelf.back == []


async def test_a_form_is_bounded(office: Office, browser: httpx.AsyncClient) -> None:
    assert (await browser.post("/console/replay", content=b"a" * (65 << 10))).status_code == 413
    many = {f"field-{n}": "x" for n in range(50)}
    assert (await browser.post("/console/replay", data=many)).status_code == 403


async def test_forms_are_reached_by_sending_alone(office: Office) -> None:
    for path in ("/console/replay/ask", "/api/v1/dlq/redrive", "/api/v1/replay"):
        transport = httpx.ASGITransport(office.app)
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as client:
            assert (await client.get(path)).status_code in (404, 405)
