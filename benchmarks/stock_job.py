"""The simple job in Faust as Faust documents itself, one event at a time."""

import asyncio
import time
from collections.abc import Iterator, MutableMapping
from typing import Any

import faust

from benchmarks.simple_job import DEFAULT_PREFERENCE, Preference, Request, identity, message, words
from benchmarks.worker import Stopwatch, order, report

LONGEST_SECONDS = 240.0
STOP_SECONDS = 30.0
TABLES = ("seen", "preferences", "sent-today")
Rows = MutableMapping[bytes, bytes]


def decide(
    value: bytes, seen: Rows, preferences: Rows, sent_today: Rows, today: bytes
) -> Iterator[tuple[str, bytes, bytes]]:
    """Decides one event against three tables; gives (channel, key, value) of what is to be sent."""
    request = Request.model_validate_json(value)
    user = request.user_id.encode()
    key = user + b"|" + request.idempotency_key.encode()
    if seen.get(key) is not None:
        return
    seen[key] = b"1"
    stored = preferences.get(user)
    if stored is None:
        preferences[user] = DEFAULT_PREFERENCE
    preference = Preference.model_validate_json(stored or DEFAULT_PREFERENCE)
    count = int(sent_today.get(user + today) or 0)
    if count >= preference.cap:
        return
    sent_today[user + today] = b"%d" % (count + 1)
    subject, body = words(request.variables)
    found = identity(user, request.idempotency_key)
    for channel, wanted in preference.channels.items():
        if wanted:
            yield channel, user, message(request, found, channel, preference.email, subject, body)


async def main() -> None:
    """Measures one run, with the settings of the sketch; its sessions are longer, for busy machines."""
    told, watch = order(), Stopwatch()
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    app = faust.App(
        told.group, broker=f"kafka://{told.bootstrap_servers}", store="rocksdb://",
        topic_partitions=told.partitions, topic_replication_factor=1, datadir=told.state_dir,
        web_enabled=False, broker_session_timeout=30,
        broker_rebalance_timeout=30, stream_wait_empty=False, topic_disable_leader=True,
        producer_linger=0.005, producer_max_batch_size=262144,
    )  # fmt: skip
    raw: dict[str, Any] = {"key_serializer": "raw", "value_serializer": "raw"}
    source = app.topic(told.source, **raw)
    outputs = {channel: app.topic(name, **raw) for channel, name in told.outputs.items()}

    def table(name: str) -> Any:
        return app.Table(
            name, key_type=bytes, value_type=bytes,
            schema=faust.Schema(key_type=bytes, value_type=bytes, **raw),
            partitions=told.partitions, options={"driver": "rocksdict"},
        )  # fmt: skip

    seen, preferences, sent_today = map(table, TABLES)
    today = b"%d" % (time.time() // 86400)

    async def plan(stream: Any) -> None:
        done = 0
        async for event in stream.events():
            watch.start()
            for channel, key, value in decide(event.value, seen, preferences, sent_today, today):
                await outputs[channel].send(key=key, value=value)
            done += 1
            if done == told.events and not finished.done():
                finished.set_result(None)

    @app.agent(source)  # type: ignore[untyped-decorator]
    async def agent(stream: Any) -> None:
        try:
            await plan(stream)
        except Exception as error:  # Faust would start the agent again, for ever
            if not finished.done():
                finished.set_exception(error)
            raise

    await app.start()
    async with asyncio.timeout(LONGEST_SECONDS):
        while not (finished.done() or app.should_stop):
            await asyncio.sleep(0.02)
        if not finished.done():
            raise RuntimeError("Faust stopped by itself")
        finished.result()
        await app.producer.flush()
        await app.consumer.commit()
    watch.stop()
    report(watch)
    await asyncio.wait_for(app.stop(), STOP_SECONDS)


if __name__ == "__main__":
    asyncio.run(main())
