"""Dead letters and replays over HTTP, on a real Kafka: seen, put back, foreseen, asked for."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from agents import topics
from pipeline.catalogue import publish
from pipeline.run import Runner
from pipeline.topics import client_options, create
from pipeline.web import operations, server
from pipeline.web.letters import Filter
from pipeline.web.repairs import Repairs
from pipeline.web.rows import Tables
from pipeline.web.tasks import Tasks
from pipeline.web.views import StoreDesk
from tests.kafka.engine_app import becomes, eventually
from tests.kafka.replay_scene import MENDED, World, at_the_end, has_obeyed
from tests.unit.test_web_api import is_problem
from tests.unit.test_web_repair_pages import hidden, text

pytestmark = pytest.mark.kafka
TOKEN = "a token of this test"
NINTH = {"source": "test", "event_id": "t.shipped-9"}
POISON = b"\x1b[2J <script>alert(1)</script> not JSON"


@contextlib.asynccontextmanager
async def served(world: World, runner: Runner) -> AsyncIterator[httpx.AsyncClient]:
    """The pages and the API, over real HTTP, and a browser that is signed in."""
    tasks = Tasks.of(runner.running, world.settings, runner.roles.pools)
    app = server.create(
        StoreDesk(lambda: runner.apps.get("status"), world.settings.state_dir), Tables(runner.held), tasks,
        Repairs.of(world.settings), operations=operations.OnKafka(world.settings, runner.catalogue),
        token=TOKEN, version="test", readiness=runner.readiness, metrics=runner.metrics,
    )  # fmt: skip
    serving, port = await server.serve(app, "127.0.0.1", 0)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert (await client.get("/console/replay", params={"token": TOKEN})).status_code == 303
            yield client
    finally:
        await serving.stop()
        await tasks.close()


async def json_of(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


async def put(world: World, *values: bytes) -> None:
    async with AIOKafkaProducer(**client_options(world.settings), acks="all") as producer:
        for value in values:
            await producer.send_and_wait(world.prefix + topics.EVENTS, value, key=b"k")


async def test_poison_is_seen_and_put_back_over_http(kafka: str, tmp_path: Path) -> None:
    world = World(kafka, tmp_path)
    async with world.running() as runner, served(world, runner) as desk:
        await put(world, POISON)

        async def held() -> int:
            found = (await json_of(await desk.get("/api/v1/dlq")))["held"]
            return int(found.get(world.prefix + "dlq-events", 0))

        async def holds(count: int) -> bool:
            return await held() == count

        await becomes(lambda: holds(1), "a letter")
        (letter,) = (await json_of(await desk.get("/api/v1/dlq?reason=unreadable&topic=dlq-events")))[
            "letters"
        ]
        whole = await json_of(await desk.get(f"/api/v1/dlq/{letter['letter']}"))
        assert whole["value"].encode() == POISON
        assert ["reason", "unreadable"] in whole["headers"]
        told = await json_of(
            await desk.post("/api/v1/dlq/redrive", json={"letters": [letter["letter"]], "dry_run": True})
        )
        assert (told["redriven"], await held()) == (1, 1)

        # by its name, by a filter, and by the form
        told = await json_of(await desk.post("/api/v1/dlq/redrive", json={"letters": [letter["letter"]]}))
        assert told == {"dry_run": False, "redriven": 1, "failures": 0, "failed": [], "next_cursor": None}
        await becomes(lambda: holds(2), "it failed once more")
        told = await json_of(await desk.post("/api/v1/dlq/redrive", json={"topic": "dlq-events", "limit": 1}))
        assert told["redriven"] == 1 and told["next_cursor"]
        await becomes(lambda: holds(3), "one of them")
        again = {"topic": "dlq-events", "cursor": told["next_cursor"]}
        told = await json_of(await desk.post("/api/v1/dlq/redrive", json=again))
        assert (told["redriven"], told["next_cursor"]) == (1, None), "what came since is not in it"
        await becomes(lambda: holds(4), "the other")
        page = await desk.get(f"/console/dlq/{letter['letter']}")
        done = await desk.post("/console/dlq/redrive", data=hidden(page.text, "/console/dlq/redrive"))
        assert done.status_code == 303
        await becomes(lambda: holds(5), "the form's")

        # page by page, the newest first, each once
        seen: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            found = await json_of(await desk.get("/api/v1/dlq", params={"limit": "2", **cursor}))
            seen += [one["letter"] for one in found["letters"]]
            if found["next_cursor"] is None:
                break
            cursor = {"cursor": found["next_cursor"]}
        assert len(seen) == len(set(seen)) == 5 and seen[-1] == letter["letter"]
        since = (await json_of(await desk.get(f"/api/v1/dlq/{seen[1]}")))["at"]
        found = await json_of(await desk.get("/api/v1/dlq", params={"since": since}))
        assert {seen[0], seen[1]} <= {one["letter"] for one in found["letters"]}
        found = await json_of(await desk.get("/api/v1/dlq", params={"until": since}))
        assert seen[-1] in {one["letter"] for one in found["letters"]}
        assert not {seen[0], seen[1]} & {one["letter"] for one in found["letters"]}
        overview = (await desk.get("/console/dlq")).text
        assert "unreadable 5" in text(overview) and "<script>alert" not in overview
        is_problem(await desk.get("/api/v1/dlq/dlq-events-1-99"), 404)
        is_problem(await desk.get("/api/v1/dlq/dlq-events-7-0"), 404)


async def test_a_mended_template_is_replayed_over_http(kafka: str, tmp_path: Path) -> None:
    world = World(kafka, tmp_path)
    async with world.running() as runner, served(world, runner) as desk:
        await world.people()
        await world.settled()
        begin = datetime.now(UTC).isoformat()
        await world.events("t.ordered", 0, 12)
        await world.events("t.shipped", 0, 6)
        await world.settled()
        before, core = world.sent(), runner.apps["core"]
        foreseen = await json_of(await desk.post("/api/v1/replay", json={"group": "core", "to": begin}))
        assert foreseen["dry_run"] is True
        assert (foreseen["nothing"], foreseen["afresh"], foreseen["new"]) == (12, 6, 0)
        assert core.rewinds.heard == 0
        world.write("templates/shipped.yaml", MENDED)
        await publish(world.settings, runner.catalogue)
        await eventually(lambda: runner.catalogue.current("shipped") == 2, "the mended template")

        # with the form: what was foreseen is what is asked for
        first = hidden((await desk.get("/console/replay")).text, "/console/replay")
        page = (await desk.post("/console/replay", data={**first, "group": "core", "to": begin})).text
        assert "failed, and would be decided afresh6" in text(page)
        assert world.sent() == before
        done = await desk.post("/console/replay/ask", data=hidden(page, "/console/replay/ask"))
        assert done.status_code == 303
        await eventually(lambda: core.rewinds.heard > 0 and has_obeyed(core), "obeyed")
        await world.settled()
        assert world.sent() == sorted([*before, *(f"Shipped {n}" for n in range(6))])

        # and as a program
        heard = core.rewinds.heard
        body = {"group": "core", "to": "earliest", "dry_run": False}
        asked = await json_of(await desk.post("/api/v1/replay", json=body), 202)
        assert asked["request_id"] and asked["again"] > 18
        await eventually(lambda: core.rewinds.heard > heard and has_obeyed(core), "obeyed")
        await world.settled()
        assert len(world.sent()) == len(before) + 6
        is_problem(
            await desk.post("/api/v1/replay", json={"topic": "users", "partition": 1, "to": "999"}), 422, "to"
        )


async def test_what_is_chosen_is_replayed_and_sent_anew_over_http(kafka: str, tmp_path: Path) -> None:
    world = World(kafka, tmp_path)
    async with world.running() as runner, served(world, runner) as desk:
        await world.people(limit=1_000)
        await world.settled()
        await world.events("t.shipped", 0, 12)
        await world.settled()
        await world.mend(runner)
        assert await at_the_end(world, "core")
        assert world.sent() == []

        async def after(*texts: str) -> None:
            """Returns when all is settled; these have gone out since, and nothing else."""
            before.extend(texts)
            await world.settled()
            assert await at_the_end(world, "core")
            assert world.sent() == sorted(before)

        # given to core again: of two users what failed, and the group stays where it is
        before: list[str] = []
        two = {"group": "core", "users": ["u2", "u3"], "reasons": ["template_failed"]}
        foreseen = await json_of(await desk.post("/api/v1/replay", json=two))
        assert (foreseen["dry_run"], foreseen["chosen"], foreseen["afresh"]) == (True, 4, 4)
        assert (foreseen["again"], foreseen["copies"], foreseen["request_id"]) == (4, 4, None)
        await after()
        done = await json_of(await desk.post("/api/v1/replay", json={**two, "dry_run": False}), 202)
        assert (done["again"], done["copies"]) == (4, 4) and done["request_id"]
        await after("Shipped 2", "Shipped 3", "Shipped 8", "Shipped 9")
        assert runner.apps["core"].rewinds.heard == 0

        # sent anew, once by its generation
        events = [{"source": "test", "id": f"t.shipped-{n}"} for n in (2, 3)]
        anew = {"group": "core", "event": events, "resend": True}
        foreseen = await json_of(await desk.post("/api/v1/replay", json=anew))
        assert (foreseen["chosen"], foreseen["anew"]) == (2, 2) and foreseen["generation"]
        same = {**anew, "generation": foreseen["generation"], "dry_run": False}
        done = await json_of(await desk.post("/api/v1/replay", json=same), 202)
        assert (done["generation"], done["anew"]) == (foreseen["generation"], 2)
        await json_of(await desk.post("/api/v1/replay", json=same), 202)  # at once, as after being cut off
        await after("Shipped 2", "Shipped 3")
        assert (await json_of(await desk.post("/api/v1/replay", json=same), 202))["copies"] == 0

        # with the form, from the page of a notification, and its button pressed twice
        (told,) = (await json_of(await desk.get("/api/v1/notifications", params=NINTH)))["notifications"]
        page = (await desk.get(f"/console/notifications/{told['notification_id']}")).text
        (to,) = re.findall(r'href="([^"]+)">Replay this notification<', page)
        first = (await desk.get(to)).text
        assert told["notification_id"] in first
        typed = {**hidden(first, "/console/replay"), "group": "core", "ids": told["notification_id"]}
        page = (await desk.post("/console/replay", data={**typed, "resend": "yes"})).text
        assert "would be decided anew" in text(page)
        asked = hidden(page, "/console/replay/ask")
        for one in await asyncio.gather(*(desk.post("/console/replay/ask", data=asked) for _ in range(2))):
            assert one.status_code == 303
        await after("Shipped 9")

        body = {"group": "core", "to": "earliest", "reasons": ["template_failed"], "dry_run": False}
        assert (await json_of(await desk.post("/api/v1/replay", json=body), 202))["again"] == 8
        await after(*(f"Shipped {n}" for n in (0, 1, 4, 5, 6, 7, 10, 11)))
        is_problem(await desk.post("/api/v1/replay", json={"group": "core", "ids": ["x"]}), 422, "ids.0")


async def test_topics_that_do_not_exist_hold_no_letter(kafka: str, tmp_path: Path) -> None:
    world = World(kafka, tmp_path)
    repairs = Repairs.of(world.settings)
    assert (await repairs.letters.page(Filter(), 5)).letters == []
    assert (await repairs.letters.counts()).total == 0
    await create(world.settings)
    assert (await repairs.letters.page(Filter(), 5)).cursor is None
