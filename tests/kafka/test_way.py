"""The whole way on a real Kafka: sample events in, every predicted outcome out, kills or no kills."""

import asyncio
from pathlib import Path

import pytest

from pipeline.broker import EmbeddedKafka
from pipeline.demo.demo import Demo
from tests.faults.loop import Loop

pytestmark = pytest.mark.kafka


async def test_every_outcome_is_as_predicted() -> None:
    figures = await Demo(300, seed=7, port=0, stay=False, quiet=True).run()
    assert figures["lost"] == figures["sent_twice"] == figures["unknown"] == 0
    for outcome in ("delivered", "suppressed", "duplicates_dropped", "dead_lettered", "ignored", "failed"):
        assert figures[outcome] > 0, outcome


async def test_the_same_seed_comes_to_the_same_figures() -> None:
    first, second = [await Demo(60, seed=3, port=0, stay=False, quiet=True).run() for _ in range(2)]
    for name in ("pairs", "delivered", "suppressed", "duplicates_dropped", "dead_lettered", "ignored"):
        assert first[name] == second[name], name


def test_nothing_is_lost_or_said_twice_over_a_few_kills(tmp_path: Path) -> None:
    with EmbeddedKafka(config={"group.min.session.timeout.ms": "1000"}) as kafka:
        figures, wrong = asyncio.run(
            Loop(seed=11, kills=4, events=400).run(kafka.bootstrap_servers, tmp_path)
        )
    assert not wrong
    assert figures["kills"] == figures["kills_while_work_remained"] == 4
