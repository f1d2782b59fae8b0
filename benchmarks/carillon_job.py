"""The simple job as a stage on the production engine."""

import asyncio
import time
from pathlib import Path
from typing import Any

import orjson

from benchmarks.roles import timed
from benchmarks.simple_job import DEFAULT_PREFERENCE, Preference, Request, identity, message, words
from benchmarks.worker import Order, order, report
from pipeline.engine import Record, Unit, UnitApp


def decide(record: Record, unit: Any, topics: dict[str, str], today: bytes) -> None:
    """Claims and decides one event; a claim keeps its origin and the number of the unit that decided it."""
    request = Request.model_validate_json(record.value or b"")
    user = request.user_id.encode()
    found = identity(user, request.idempotency_key)
    key, origin = b"c|" + found.encode(), f"{record.topic}:{record.offset}:{record.timestamp}"
    claim = unit.get(key)
    if claim is not None:  # the claim first: nothing that changed since may change what was decided
        claimed, number, outcome = orjson.loads(claim)
        if claimed != origin or number <= unit.mark:
            return  # a duplicate, or decided and known to be out
    else:
        stored = unit.get(b"p|" + user)
        if stored is None:
            unit.put(b"p|" + user, DEFAULT_PREFERENCE)
        preference = Preference.model_validate_json(stored or DEFAULT_PREFERENCE)
        counter = b"k|" + user + b"|" + today
        count = int(unit.get(counter) or 0)
        outcome = {}
        if count < preference.cap:
            outcome = {channel: preference.email for channel, wanted in preference.channels.items() if wanted}
            unit.put(counter, b"%d" % (count + 1))
        unit.put(key, orjson.dumps((origin, unit.number, outcome)))
    if outcome:
        subject, body = words(request.variables)
        for channel, to in outcome.items():
            made = message(request, found, channel, to, subject, body)
            unit.outbox.add(topics[channel], user, made, partition=unit.partition)


def reject(record: Record, error: Exception, unit: Unit) -> None:
    """There is nothing to reject: an error ends the measure."""
    raise error


def build(told: Order) -> UnitApp:
    """The App with its one stage."""
    topics = (told.source, *told.outputs.values())
    app = UnitApp(
        told.group,
        bootstrap_servers=told.bootstrap_servers,
        partitions=told.partitions,
        topics=dict.fromkeys(topics, told.partitions),
        state_dir=Path(told.state_dir),
    )
    today = b"%d" % (time.time() // 86400)
    app.stage("plan", told.source, decide=lambda r, u: decide(r, u, told.outputs, today), reject=reject)
    return app


async def main() -> None:
    """Measures one run."""
    told = order()
    report(await timed(build(told), {told.source: told.events}))


if __name__ == "__main__":
    asyncio.run(main())
