"""Receipts on a real Kafka: a signed callback ends in the history, and the address is not used again."""

from pathlib import Path

import pytest

from agents import topics
from agents.sending import Send
from pipeline.metrics import Metrics
from pipeline.providers import outbox
from pipeline.receipts.line import BrokerAway, Line
from pipeline.receipts.receiving import Receiving
from pipeline.receipts.vendors import Calling
from pipeline.settings import given
from pipeline.web.views import StoreDesk
from schemas.ids import phone_id, target_id
from schemas.kinds import Channel
from tables import suppressed
from tests.kafka.engine_app import eventually
from tests.kafka.replay_scene import World
from tests.unit import signing

pytestmark = pytest.mark.kafka


async def test_a_bounce_ends_in_the_history_and_suppresses_the_address(kafka: str, tmp_path: Path) -> None:
    world = World(kafka, tmp_path)
    line = Line(world.settings)
    async with world.running() as runner:
        await world.people()
        await world.events("t.ordered", 2, 3)
        file = world.settings.state_dir / outbox.FILE
        mine = target_id("u2@example.com")

        def mails() -> list[str]:
            found = outbox.read(file, limit=100) if file.exists() else []
            return [one.key for one in found if f".{mine}" in one.key]

        await eventually(mails, "the mail is sent")
        [reference] = mails()
        id = reference.partition(".")[0]
        desk = StoreDesk(lambda: runner.apps.get("status"), world.settings.state_dir)

        def state() -> str:
            found = desk.notification(id)
            pair = found["pairs"].get(f"email:{mine}") if found is not None else None
            return pair["state"] if pair is not None else ""  # it may come after the notification

        await eventually(lambda: state() == "delivered", "it is known to be in the outbox")
        events = [
            signing.a_sendgrid_event(one, type="bounce", carillon=reference) for one in ("bounce", "open")
        ]
        vendor, callback = signing.sendgrid(*events)
        receiving = Receiving({"box": Calling(Channel.EMAIL, vendor)}, line.send, Metrics())
        for _ in range(2):
            assert await receiving.take("box", callback) == 204
        await eventually(lambda: state() == "bounced", "the bounce is folded")

        def is_suppressed() -> bool:
            return any(
                f"email:{mine}" in suppressed.of_user(rows, "u2")
                for rows in runner.held()["core"].rows.values()
            )

        await eventually(is_suppressed, "core has heard of it")
        await world.events("t.ordered", 8, 9)  # u2 again
        await world.events("t.ordered", 9, 10)
        await eventually(lambda: len(outbox.read(file, limit=100)) > 3, "others are sent to")
        assert mails() == [reference]
        found = desk.notification(id)
        assert found is not None
        assert [entry[3] for entry in found["timeline"] if entry[1] == "email"].count("bounced") == 1

        stop = signing.twilio(signing.URL, From="+15550100", Body="STOP")
        await Receiving({"main": Calling(Channel.SMS, stop.vendor)}, line.send, Metrics()).take(
            "main", stop.callback
        )

        def everywhere() -> bool:
            rows = runner.held()["core"].rows.values()
            return len(rows) == 2 and all(suppressed.of_number(one, phone_id("15550100")) for one in rows)

        await eventually(everywhere, "every partition has heard of the stop")
    await line.close()
    await line.close()


async def test_a_broker_that_is_away_is_told_within_a_moment() -> None:
    line = Line(given(kafka={"bootstrap_servers": "127.0.0.1:1"}))
    with pytest.raises(BrokerAway):
        await line.send([Send(topics.CONTENTS, b"", b"{}", 1)])
    await line.close()
