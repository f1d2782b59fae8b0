"""What operators ask and order over HTTP: explanations, cancelling, templates, workflows; and the pages."""

import json
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from pipeline.web import guard
from pipeline.web.operate_console import MOST_IN_ADDRESS
from schemas.ids import notification_id
from schemas.kinds import Doubt, Reason, State
from schemas.notification import EventRef
from schemas.template import Template
from tests.browser.desk import SOURCE, TOKEN, XSS, Office, story
from tests.journeys.samples import a_template, a_workflow
from tests.unit.test_web_api import is_problem
from tests.unit.test_web_pages import is_harmless

HTML = '<p onclick="x()">Hello {{ name }}</p>'


@pytest.fixture
def office() -> Office:
    found = Office()
    versions = {
        n: {
            "email": {"subject": f"{n} {{{{ name }}}}", "text": f"text {n}", "html": HTML},
            "sms": {"text": "{{ code }}"},
        }
        for n in (1, 2)
    }
    versions[3] = {"sms": {"text": "{{ broken"}}
    words = {"name": "order", "current": 2, "versions": versions}
    found.outside.catalogue.set_template(Template.model_validate(words))
    found.outside.catalogue.set_workflow(a_workflow(name="orders", doubt="at_most_once"))
    return found


async def send(office: Office, method: str, path: str, **more: Any) -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(office.app), base_url="http://127.0.0.1",
        headers={"authorization": f"Bearer {TOKEN}"},
    ) as client:  # fmt: skip
        return await client.request(method, path, **more)


async def explain(office: Office, **params: str) -> httpx.Response:
    return await send(office, "GET", "/api/v1/explain", params=params)


# -- explanations


async def test_a_notification_is_explained_by_its_id(office: Office) -> None:
    found = story(office)
    told = (await explain(office, id=found)).json()
    assert told["found"] and told["whole"] and told["sentences"] == []
    (one,) = told["stories"]
    assert (one["notification_id"], one["user_id"], one["state"]) == (found, "ada", "sent")
    assert one["sentences"][0] == "ada was told by e-mail."
    assert any("as their limit allows (3 of 3)" in sentence for sentence in one["sentences"])


async def test_an_event_is_explained_for_one_user_or_for_all(office: Office) -> None:
    for user in ("ada", "brian"):
        office.tell(State.SENT, user=user)
    assert len((await explain(office, source=SOURCE, event_id="order-1")).json()["stories"]) == 2
    told = (await explain(office, source=SOURCE, event_id="order-1", user_id="brian")).json()
    assert [one["user_id"] for one in told["stories"]] == ["brian"]
    nobody = (await explain(office, source=SOURCE, event_id="order-1", user_id="eve")).json()
    assert not nobody["found"] and nobody["sentences"][0] == "eve was not told."


async def test_the_policy_of_the_workflow_is_told_of_a_doubt(office: Office) -> None:
    found = office.tell(State.UNKNOWN, attempt=1, provider="main", reason=Reason.CALL_CUT_OFF)
    (one,) = (await explain(office, id=found)).json()["stories"]
    assert any(f"is {Doubt.AT_MOST_ONCE}" in sentence for sentence in one["sentences"])


async def test_a_digest_is_followed(office: Office) -> None:
    digest = office.tell(State.SENT, source="carillon:digest", event="d")
    found = office.tell(State.DIGESTED, channel=None, reason=Reason.IN_DIGEST, detail=digest)
    told = (await explain(office, id=found)).json()
    assert [one["notification_id"] for one in told["stories"]] == [found, digest]


async def test_a_dead_letter_and_a_broker_that_is_away_are_told(office: Office) -> None:
    office.outside.dead = [{
        "topic": "dlq-events", "partition": 3, "offset": 7, "reason": "unreadable", "error": "not JSON",
        "event": {"source": "s", "id": "e"}, "notification_id": None,
    }]  # fmt: skip
    office.outside.away = True
    told = (await explain(office, source="s", event_id="e")).json()
    assert not told["found"]
    said = " ".join(told["sentences"])
    assert "The event could not be read: not JSON." in said and "`carillon dlq show dlq-events 3 7`" in said
    assert "more dead letters than could be looked through" in said


async def test_what_other_processes_hold_is_said_to_be_missing(office: Office) -> None:
    found = office.tell(State.SENT)
    office.lose(found)
    is_problem(await explain(office, id=found), 503)
    told = (await explain(office, source=SOURCE, event_id="order-1")).json()
    assert told["whole"] is False and "Not every partition of status could be asked" in told["sentences"][-1]


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        ({}, ["id", "source", "event_id"]),
        ({"id": "x"}, ["id"]),
        ({"id": "x", "source": "s", "event_id": "e"}, ["id", "source", "event_id"]),
        ({"source": "s"}, ["event_id"]),
        ({"event_id": "e"}, ["source"]),
        ({"id": notification_id("ada", "s", "e", "w"), "user_id": "ada"}, ["user_id"]),
    ],
)
async def test_what_cannot_be_explained_names_the_field(
    office: Office, params: dict[str, str], fields: list[str]
) -> None:
    is_problem(await explain(office, **params), 422, *fields)


async def test_the_page_of_a_notification_tells_its_story(office: Office) -> None:
    digest = office.tell(State.SENT, source="carillon:digest", event="d")
    found = office.tell(State.DIGESTED, channel=None, reason=Reason.IN_DIGEST, detail=digest)
    page = (await send(office, "GET", f"/console/notifications/{found}")).text
    is_harmless(page)
    assert "ada is told of it in a digest." in page and "ada was told by e-mail." in page
    assert f'href="/console/notifications/{digest}">The digest that it went into' in page


# -- cancelling


async def test_a_cancel_brings_the_user_and_the_event_where_they_are_known(office: Office) -> None:
    found = office.tell(State.SCHEDULED, channel=None)
    answer = await send(office, "DELETE", f"/api/v1/notifications/{found}")
    assert answer.status_code == 202 and answer.json() == {"notification_id": found}
    event = EventRef(source=SOURCE, id="order-1", type="order.placed")
    assert office.outside.cancelled == [(found, "ada", event)]
    office.lose(found)
    path = f"/api/v1/notifications/{found}"
    assert (await send(office, "DELETE", path)).status_code == 202
    assert (await send(office, "DELETE", path, params={"user_id": "ada"})).status_code == 202
    assert office.outside.cancelled[1:] == [(found, "", None), (found, "ada", None)]
    is_problem(await send(office, "DELETE", path, params={"user_id": "eve"}), 422, "user_id")
    is_problem(await send(office, "DELETE", "/api/v1/notifications/x"), 422, "notification_id")
    office.outside.away = True
    is_problem(await send(office, "DELETE", path), 503)
    assert len(office.outside.cancelled) == 3


# -- templates and workflows


async def test_templates_and_workflows_can_be_read(office: Office) -> None:
    told = (await send(office, "GET", "/api/v1/templates")).json()
    assert told == {"templates": [{"name": "order", "current": 2, "versions": [1, 2, 3]}]}
    one = (await send(office, "GET", "/api/v1/templates/order")).json()
    assert Template.model_validate(one) == office.outside.catalogue.templates["order"]
    (rule,) = (await send(office, "GET", "/api/v1/workflows")).json()["workflows"]
    assert rule == (await send(office, "GET", "/api/v1/workflows/orders")).json()
    assert rule["channels"] == ["email", "sms", "web"]
    for path in ("templates/none", "workflows/none"):
        is_problem(await send(office, "GET", f"/api/v1/{path}"), 404)


async def test_a_preview_tells_what_each_channel_says_or_what_is_in_the_way(office: Office) -> None:
    path = "/api/v1/templates/order/preview"
    told = (await send(office, "POST", path, json={"variables": {"name": "Ada"}})).json()
    assert (told["name"], told["version"]) == ("order", 2)
    assert told["content"] == {
        "email": {"subject": "2 Ada", "text": "text 2", "html": '<p onclick="x()">Hello Ada</p>'}
    }
    assert list(told["problems"]) == ["sms"] and "'code' is undefined" in told["problems"]["sms"]
    earlier = (
        await send(office, "POST", path, json={"version": 1, "variables": {"name": "x", "code": 1}})
    ).json()
    assert earlier["content"]["email"]["subject"] == "1 x" and earlier["problems"] == {}
    refused: list[dict[str, Any]] = [
        {"version": 9}, {"version": 0}, {"variables": []}, {"version": "x"}
    ]  # fmt: skip
    for wrong in refused:
        field = "variables" if "variables" in wrong else "version"
        is_problem(await send(office, "POST", path, json=wrong), 422, field)
    is_problem(await send(office, "POST", "/api/v1/templates/none/preview", json={}), 404)
    broken = (await send(office, "POST", path, json={"version": 3})).json()
    assert broken["content"] == {} and "line 1" in broken["problems"]["sms"]
    words = {"sms": {"text": "hello"}}
    translated = {
        "channels": words, "locales": {"de": {"sms": {"text": "hallo"}}},
        "variants": [{"name": "b", "weight": 1, "channels": {"sms": {"text": "hey"}}}],
    }  # fmt: skip
    found = Template.model_validate({"name": "hello", "versions": {1: translated}})
    office.outside.catalogue.set_template(found)
    path = "/api/v1/templates/hello/preview"
    for asked, says in (({}, "hello"), ({"locale": "de-AT"}, "hallo"), ({"variant": "b"}, "hey")):
        told = (await send(office, "POST", path, json=asked)).json()
        assert told["content"]["sms"]["text"] == says
    form = urlencode({"locale": "de", "variables": ""})
    page = (await send(office, "POST", "/console/templates/hello", content=form)).text
    is_harmless(page)
    assert "hallo" in page and 'name="variant"' in page


async def test_a_rollback_publishes_the_template_with_that_version_as_its_current_one(office: Office) -> None:
    before, path = office.outside.catalogue.templates["order"], "/api/v1/templates/order/rollback"
    answer = await send(office, "POST", path, json={"version": 1})
    assert answer.json() == {"name": "order", "current": 1, "versions": [1, 2, 3]}
    after = office.outside.catalogue.templates["order"]
    assert (after.current, after.versions) == (1, before.versions)
    wrongs: list[dict[str, int]] = [{"version": 9}, {"version": 3}, {}]
    for wrong in wrongs:
        is_problem(await send(office, "POST", path, json=wrong), 422, "version")
    is_problem(await send(office, "POST", "/api/v1/templates/none/rollback", json={"version": 1}), 404)
    office.outside.away = True
    is_problem(await send(office, "POST", path, json={"version": 2}), 503)
    assert office.outside.catalogue.templates["order"] is after


# -- the pages of templates


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (r'{"variables":{"gift":{"from":"\ud800"}}}', "variables.gift.from"),
        (r'{"variables":{"all":[1,["x","a\udfffb"]]}}', "variables.all.1.1"),
        (r'{"variables":{"\ud800":1}}', "variables"),
        (r'{"variables":{"gift":{"\ud800":1}}}', "variables.gift"),
        (r'{"variant":"\ud800"}', "variant"),
        (r'{"locale":"\ud800"}', "locale"),
    ],
)
async def test_half_a_character_is_refused_by_the_name_of_its_field(
    office: Office, body: str, field: str
) -> None:
    headers = {"content-type": "application/json"}
    path = "/api/v1/templates/order/preview"
    is_problem(await send(office, "POST", path, content=body.encode(), headers=headers), 422, field)
    whole = body.replace("ud800", "ud83d\\ude00").replace("udfff", "ud83d\\ude00").encode()
    assert (await send(office, "POST", path, content=whole, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["replay", "dlq/redrive", "templates/order/preview", "templates/order/rollback"],
)
@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (b"x", "application/json", "not JSON at byte 0: Expecting value"),
        ('{"ü": }'.encode(), "application/json", "not JSON at byte 7: Expecting value"),
        (b'{"a":1', "application/json", "not JSON at byte 6"),
        (b"", "application/json", "is empty; a JSON object is needed"),
        (b"[]", "application/json", "is not a JSON object"),
        (b"null", "application/json", "a JSON object"),
        (b'{"a":"\xff"}', "application/json", "not UTF-8 at byte 6"),
        (b"[" * 60_000, "application/json", "nested too deeply"),
        (b"{}", "text/plain", "is read with content-type: application/json alone"),
    ],
)
async def test_a_body_that_cannot_be_read_is_named(
    office: Office, path: str, body: bytes, kind: str, says: str
) -> None:
    answer = await send(office, "POST", f"/api/v1/{path}", content=body, headers={"content-type": kind})
    is_problem(answer, 422, "body")
    told = answer.json()
    assert says in told["errors"][0]["detail"] and told["detail"].startswith("body: ")


async def test_a_refusal_says_what_is_wrong_without_the_words_of_a_library(office: Office) -> None:
    answer = await send(office, "POST", "/api/v1/replay", json={"group": "x", "to": "earliest"})
    is_problem(answer, 422, "group")
    assert answer.json()["errors"][0]["detail"].startswith("no such group; there are core")
    assert "Value error" not in answer.text


@pytest.mark.parametrize("path", ["preview", "rollback"])
async def test_fields_that_are_not_known_are_refused(office: Office, path: str) -> None:
    answer = await send(office, "POST", f"/api/v1/templates/order/{path}", json={"version": 2, "bogus": 1})
    is_problem(answer, 422, "bogus")


async def test_the_pages_of_templates_show_them_and_their_preview(office: Office) -> None:
    assert "There is no template yet" in (await send(Office(), "GET", "/console/templates")).text
    page = (await send(office, "GET", "/console/templates")).text
    is_harmless(page)
    assert 'href="/console/templates/order"' in page and "order-confirmed" not in page
    page = (await send(office, "GET", "/console/templates/order?version=1")).text
    is_harmless(page)
    assert '<option value="1" selected>' in page and "What version" not in page
    assert "Carillon 0.0.1-test" in page
    form = urlencode({"version": "1", "variables": '{"name": "<b>Ada"}'})
    page = (await send(office, "POST", "/console/templates/order", content=form)).text
    is_harmless(page)
    assert "1 &lt;b&gt;Ada" in page and "onclick" not in page
    assert "<b>sms</b> cannot be filled: " in page and "is undefined" in page
    assert "/console/templates/order/html/email?version=1&amp;variables=" in page


async def test_html_is_framed_and_where_it_cannot_be_shown_as_source(office: Office) -> None:
    query = urlencode({"version": "2", "variables": '{"name": "Ada"}'})
    framed = await send(office, "GET", f"/console/templates/order/html/email?{query}")
    assert framed.text.endswith('<p onclick="x()">Hello Ada</p>')
    assert framed.headers["content-security-policy"] == guard.FRAME_POLICY
    for path in (
        "order/html/sms",
        "none/html/email",
        "order/html/email?variables=x",
        "order/html/email?version=9",
    ):
        missing = await send(office, "GET", f"/console/templates/{path}")
        assert (missing.status_code, missing.text) == (404, "")
    form = urlencode({"version": "2", "variables": f'{{"name": "{"a" * MOST_IN_ADDRESS}"}}'})
    page = (await send(office, "POST", "/console/templates/order", content=form)).text
    is_harmless(page)
    assert "<iframe" not in page and "&lt;p onclick=" in page


@pytest.mark.parametrize(
    ("version", "variables", "says"),
    [
        ("", "[1]", "not a JSON object"), ("", "{", "not JSON"), ("9", "{}", "version 9 of order is not"),
        ("x", "{}", "is no version"), ("2", "[" * 5000, "not JSON"),
    ],
)  # fmt: skip
async def test_what_cannot_be_previewed_is_said_beside_what_was_typed(
    office: Office, version: str, variables: str, says: str
) -> None:
    form = urlencode({"version": version, "variables": variables})
    answer = await send(office, "POST", "/console/templates/order", content=form)
    assert answer.status_code == 422 and says in answer.text
    is_harmless(answer.text)
    assert "What version" not in answer.text


@pytest.mark.parametrize("name", XSS)
async def test_what_templates_say_is_text(office: Office, name: str) -> None:
    office.outside.catalogue.set_template(a_template("{{ it }}", name="echo"))
    form = urlencode({"variables": json.dumps({"it": name})})
    answer = await send(office, "POST", "/console/templates/echo", content=form)
    assert answer.status_code == 200
    is_harmless(answer.text)
    unusable = urlencode({"variables": name})
    is_harmless((await send(office, "POST", "/console/templates/echo", content=unusable)).text)


async def test_a_template_that_is_not_there_has_no_page(office: Office) -> None:
    assert (await send(office, "GET", "/console/templates/none")).status_code == 404
    assert (await send(office, "POST", "/console/templates/none")).status_code == 404
