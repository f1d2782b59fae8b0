"""The simple job in Quix Streams as it is by default, at least once; runs in an environment of its own."""

import time
from typing import Any

from benchmarks.simple_job import DEFAULT_PREFERENCE, Preference, Request, identity, words
from benchmarks.worker import Stopwatch, order, report


def decide(value: bytes, state: Any, today: str) -> list[dict[str, str]]:
    """Decides one event against the state of its key, the user; gives what is to be sent."""
    request = Request.model_validate_json(value)
    if state.exists(request.idempotency_key):
        return []
    state.set_bytes(request.idempotency_key, b"1")
    stored = state.get_bytes("preference")
    if stored is None:
        state.set_bytes("preference", DEFAULT_PREFERENCE)
    preference = Preference.model_validate_json(stored or DEFAULT_PREFERENCE)
    count = int(state.get_bytes(today) or 0)
    if count >= preference.cap:
        return []
    state.set_bytes(today, b"%d" % (count + 1))
    subject, body = words(request.variables)
    found = identity(request.user_id.encode(), request.idempotency_key)
    return [
        {
            "id": found, "user_id": request.user_id, "channel": channel, "to": preference.email,
            "subject": subject, "body": body, "priority": request.priority,
        }
        for channel, wanted in preference.channels.items()
        if wanted
    ]  # fmt: skip


def main() -> None:
    """Measures one run."""
    import quixstreams  # type: ignore[import-not-found]

    told, watch, done = order(), Stopwatch(), 0
    app = quixstreams.Application(
        told.bootstrap_servers, consumer_group=told.group, auto_offset_reset="earliest",
        state_dir=told.state_dir, loglevel="ERROR",
    )  # fmt: skip
    source = app.topic(told.source, key_deserializer="bytes", value_deserializer="bytes")
    outputs = {
        channel: app.topic(name, key_serializer="bytes", value_serializer="json")
        for channel, name in told.outputs.items()
    }
    today = f"{time.time() // 86400:.0f}"

    def plan(value: bytes, state: Any) -> list[dict[str, str]]:
        nonlocal done
        watch.start()
        done += 1
        if done == told.events:
            app.stop()  # after this record: produces, flushes, commits
        return decide(value, state, today)

    stream = app.dataframe(source).apply(plan, stateful=True, expand=True)
    stream.to_topic(lambda value, key, timestamp, headers: outputs[value["channel"]])
    app.run()
    watch.stop()
    report(watch)


if __name__ == "__main__":
    main()
