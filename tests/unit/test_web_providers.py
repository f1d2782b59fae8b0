"""What operators see of the providers: who is called, who is left alone, and for how long."""

from typing import Any

import pytest

from pipeline.pool.breaker import THRESHOLD
from schemas import outcome
from schemas.kinds import Channel
from tests.browser.desk import Office
from tests.unit.test_pool import FAILED, THROTTLED, Fake, Scene
from tests.unit.test_web_api import ask
from tests.unit.test_web_pages import is_harmless, look


@pytest.fixture
def scene() -> Scene:
    return Scene(Fake("main"), Fake("backup"), limits={"main": 80.0})


async def asked(scene: Scene) -> tuple[list[dict[str, Any]], str]:
    """The API's answer and the page."""
    office = Office()
    office.tasks.pools = {Channel.SMS: scene.pool}
    page = await look(office, "/console/tasks")
    is_harmless(page)
    found: list[dict[str, Any]] = (await ask(office, "breakers")).json()["breakers"]
    return found, page


async def test_providers_stand_in_their_order_with_their_share(scene: Scene) -> None:
    scene.pool.set_share(0.5)
    (main, backup), page = await asked(scene)
    assert main == {
        "channel": "sms", "name": "main", "kind": "fake", "state": "closed", "failures": 0, "seconds": 0.0,
        "under_way": 0, "per_second": 40.0,
    }  # fmt: skip
    assert (backup["name"], backup["per_second"]) == ("backup", None)
    assert page.count("is called") == 2


async def test_who_failed_is_left_alone_and_says_for_how_long(scene: Scene) -> None:
    scene.now += 10.0
    for _ in range(THRESHOLD):
        scene.now += 1.0
        scene.call(FAILED)
    (main, backup), page = await asked(scene)
    assert (main["state"], main["failures"], main["seconds"]) == ("open", THRESHOLD, 1.0)
    assert backup["state"] == "closed"
    assert "left alone" in page
    scene.now += 1.0
    probe = scene.offer()
    probe.choose(only="main")
    assert (await asked(scene))[0][0]["state"] == "probing"
    probe.end(outcome.sent())
    assert (await asked(scene))[0][0]["state"] == "closed"


async def test_who_asked_for_a_pause_waits(scene: Scene) -> None:
    scene.now += 10.0
    scene.call(THROTTLED)
    (main, _), page = await asked(scene)
    assert (main["state"], main["seconds"]) == ("waiting", 7.0)
    assert "asked for a pause" in page
