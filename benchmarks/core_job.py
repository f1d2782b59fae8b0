"""The production core role over the simple job's events, both hops."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from agents import topics
from agents.catalogue import Catalogue
from benchmarks.roles import timed
from benchmarks.simple_job import BODY_SOURCE, EMAIL, SUBJECT_SOURCE, user, users
from benchmarks.worker import order, report
from pipeline.app import Roles
from pipeline.metrics import Metrics
from pipeline.settings import Settings, given
from pipeline.topics import ROLES
from schemas.base import dumps
from schemas.kinds import Channel
from schemas.template import Parts, Template, Version
from schemas.workflow import Workflow

CHANNELS = (Channel.EMAIL, Channel.WEB)


def settings(bootstrap_servers: str, prefix: str, partitions: int, state_dir: Path) -> Settings:
    """The settings of a run: every role's topics with the same number of partitions."""
    return given(
        state_dir=state_dir,
        kafka={
            "bootstrap_servers": bootstrap_servers,
            "topic_prefix": prefix,
            "partitions": dict.fromkeys(ROLES, partitions),
        },
    )


def catalogue(channels: tuple[Channel, ...] = CHANNELS) -> Catalogue:
    """One workflow and one template, which come to what the simple job does."""
    parts = Parts(subject=SUBJECT_SOURCE, text=BODY_SOURCE)
    template = Template(
        name="order-confirmed", versions={1: Version(channels=dict.fromkeys(channels, parts))}
    )
    workflow = Workflow(
        name="order-confirmed",
        on="order_confirmed",
        template="order-confirmed",
        channels=channels,
        category="orders",
    )
    return Catalogue([workflow], [template])


def people(events: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Topic, key and value of the users and preferences that so many events are about."""
    for name in map(user, range(users(events))):
        told = {"user_id": name, "email": EMAIL, "phone": "+15550100"}
        yield topics.USERS, name.encode(), dumps(told)
        wanted = {"user_id": name, "channels": dict.fromkeys(map(str, CHANNELS), True), "frequency_limit": 50}
        yield topics.PREFERENCES, name.encode(), dumps(wanted)


async def main() -> None:
    """Measures one run."""
    told = order()
    chosen = settings(told.bootstrap_servers, told.prefix, told.partitions, Path(told.state_dir))
    roles = Roles(chosen, catalogue(), Metrics())
    wanted = {told.prefix + name: told.events for name in (topics.EVENTS, topics.NOTIFICATIONS)}
    report(await timed(roles.build("core"), wanted))


if __name__ == "__main__":
    asyncio.run(main())
