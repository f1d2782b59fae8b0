"""What tests in several folders share: a real Kafka for the session."""

import os
from collections.abc import Iterator

import pytest

from pipeline.broker import BrokerFailed, BrokerUnavailable, EmbeddedKafka


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap servers of a real Kafka: KAFKA_BOOTSTRAP_SERVERS if set, else an embedded one."""
    configured = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if configured:
        yield configured
        return
    embedded = EmbeddedKafka()
    try:
        embedded.start()
    except BrokerFailed:
        raise
    except BrokerUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    try:
        yield embedded.bootstrap_servers
    finally:
        embedded.stop()
