"""The only place where the parts are joined: one Faust App a role.

`faust -A pipeline.app:core agents` lists a role's stages (`email`, `webhook`, `status`, … likewise).
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from agents import broadcast, intake, know, plan, redrive, remember, report, signals, topics
from agents.catalogue import Catalogue
from agents.plan import Policy, Work
from pipeline.attachments import stores
from pipeline.delivery import Delivery
from pipeline.engine import Record, Rewinds, Sweep, Unit, UnitApp
from pipeline.engine.timers import due_in
from pipeline.metrics import EngineMetrics, Metrics
from pipeline.pool import Pool
from pipeline.providers import registry
from pipeline.providers.countries import country_of
from pipeline.providers.provider import Place
from pipeline.receipts.secret import mailing
from pipeline.settings import Retention, Settings, SettingsError, bootstrap_servers, load
from pipeline.topics import DAYS, DEAD_LETTER_DAYS, ROLES, changelog, counts, credentials, group, partitions
from pipeline.wiring import Wiring, origin_of
from schemas.event import Unreadable
from schemas.ids import partition_of, user_hash
from schemas.kinds import Channel
from schemas.notification import FanOut, Signal
from tables import caps, claims, effects, history, reports, stops, watches

log = logging.getLogger(__name__)


def milliseconds(days: float) -> int:
    """Days as the engine and the stages count them."""
    return int(days * DAYS)


def sweeps(role: str, kept: Retention) -> tuple[Sweep, ...]:
    """The tables of a role whose rows have a window."""
    claimed = milliseconds(kept.claims)
    if role == "core":
        return (
            Sweep(claims.PREFIX, claims.forget, claimed), Sweep(caps.PREFIX, caps.forget, claimed),
            Sweep(watches.PREFIX, watches.forget, claimed), Sweep(stops.CLOSED, stops.forget_closed, claimed),
        )  # fmt: skip
    if role == "status":
        told = milliseconds(kept.history)
        return (
            Sweep(history.BY_USER, history.forget, told), Sweep(history.MINUTES, history.forget_minute, told),
            Sweep(reports.PREFIX, reports.forget, told),
        )  # fmt: skip
    # no message outlives its attempts but a dead letter, which may be put back as long as there is one
    stopped = milliseconds(max(kept.attempts, DEAD_LETTER_DAYS))
    return (
        Sweep(effects.ATTEMPTS, effects.forget, milliseconds(kept.attempts)),
        Sweep(stops.PREFIX, stops.forget, stopped),
    )


class Roles:
    """Builds the App of each role over one catalogue and one set of metrics."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        metrics: Metrics,
        rewinds: Callable[[str], Rewinds] = lambda _: Rewinds(),
    ) -> None:
        self.settings, self.catalogue, self.metrics = settings, catalogue, metrics
        #: what the members of a group are told to read anew, by the group's name
        self.rewinds = rewinds
        self.wiring = Wiring(settings.kafka.topic_prefix, counts(settings))
        self.policy = Policy(
            round(settings.core.unknown_user_grace * 1000),
            {
                name: category.daily_cap
                for name, category in settings.categories.items()
                if category.daily_cap
            },
            partitions(settings, "core"),
            settings.core.broadcast_page,
            settings.core.broadcast_per_second,
            mailing(settings),
        )
        self.pools: dict[Channel, Pool] = {}
        self.attached = stores.attached(settings)
        self.claims_kept = milliseconds(settings.retention.claims)

    def names(self) -> tuple[str, ...]:
        """The roles that can run: core, status, and each channel that has a provider."""
        channels = self.settings.channels
        able = {str(channel) for channel, found in channels.items() if found.providers}
        return tuple(role for role in ROLES if role in ("core", "status") or role in able)

    def check(self, role: str) -> None:
        """Raises SettingsError for a role that no provider is configured for."""
        if role not in self.names():
            raise SettingsError(
                f"--role {role}: no provider is configured for it; name one in channels.{role}.providers"
            )

    def build(self, role: str) -> UnitApp:
        """The App of a role, with its stages. Raises SettingsError for a role that cannot run."""
        self.check(role)
        app = self._app(role)
        if role == "core":
            self._core(app)
        elif role == "status":
            self._status(app)
        else:
            self._channel(app, Channel(role))
        return app

    def _app(self, role: str) -> UnitApp:
        settings = self.settings
        return UnitApp(
            group(settings, role),
            bootstrap_servers=bootstrap_servers(settings) or "127.0.0.1:9092",
            partitions=partitions(settings, role),
            topics={
                **self.wiring.partitions,
                settings.kafka.topic_prefix + changelog(role): partitions(settings, role),
            },
            state_dir=Path(settings.state_dir) / role,
            session_timeout=settings.kafka.session_timeout,
            observer=EngineMetrics(self.metrics, role),
            credentials=credentials(settings),
            rewinds=self.rewinds(group(settings, role)),
            expected=(Unreadable,),
            sweeps=sweeps(role, settings.retention),
        )

    # -- core

    def _core(self, app: UnitApp) -> None:
        name = self.wiring.name
        people = [name(topic) for topic in (topics.USERS, topics.PREFERENCES, topics.DEVICES)]
        app.stage(
            "know", *people, decide=self._know, reject=partial(self._dead, topics.DEAD_PEOPLE), gate=True
        )
        plan_it = partial(app.stage, decide=self._plan, reject=partial(self._dead, topics.DEAD_NOTIFICATIONS))
        take_in = partial(app.stage, decide=self._take_in, reject=partial(self._dead, topics.DEAD_EVENTS))
        plan_it("plan-express", name(topics.NOTIFICATIONS + topics.EXPRESS), urgent=True)
        take_in("intake-express", name(topics.EVENTS + topics.EXPRESS), urgent=True)
        plan_it("plan", name(topics.NOTIFICATIONS))
        take_in("intake", name(topics.EVENTS))

    def _know(self, record: Record, unit: Unit) -> None:
        topic, key = self.wiring.plain(record.topic), record.key or b""
        owner = key.partition(b"\0")[0].decode("utf-8", "replace")
        hashed = user_hash(owner)
        if partition_of(hashed, self.wiring.partitions[record.topic]) != record.partition:
            self.metrics.astray(topic)
            self.wiring.send(unit, [know.astray(topic, key, record.value, hashed, record.headers)])
            return
        at = redrive.origin(record.headers, origin_of(record)).at if record.headers else record.timestamp
        self.wiring.send(unit, know.know(topic, record.key, record.value, at, unit, unit.number, unit.mark))

    def _take_in(self, record: Record, unit: Unit) -> None:
        sends = intake.take_in(record.value, record.headers, origin_of(record), self.catalogue)
        if sends and sends[0].topic == topics.DELIVERY_STATUS:
            self.metrics.ignored()
        self.wiring.send(unit, sends)

    def _plan(self, record: Record, unit: Unit) -> None:
        found, origin = plan.read(record.value), origin_of(record)
        work = Work(
            unit, unit.number, unit.mark, self.catalogue, unit.epoch, self.policy, self.wiring.name,
            unit.now - self.claims_kept,
        )  # fmt: skip
        if isinstance(found, Signal):
            self.wiring.send(unit, signals.hear(found, origin, work))
            return
        due = due_in(record) if record.headers else None
        if isinstance(found, FanOut):
            self.wiring.send(unit, broadcast.fan_out(found, origin, work, due))
        else:
            self.wiring.send(unit, plan.plan(found, origin, work, due))

    def _dead(self, topic: str, record: Record, error: Exception, unit: Unit) -> None:
        """Dead-letters a record that a stage could not read or decide."""
        log.warning(
            "dead-lettered %s-%d-%d: %s", record.topic, record.partition, record.offset, type(error).__name__
        )
        self.metrics.dead_lettered(topic)
        dead = intake.dead(record.value, record.key, error, origin_of(record), topic, record.headers)
        self.wiring.send(unit, [dead])

    # -- delivery

    def _channel(self, app: UnitApp, channel: Channel) -> None:
        channel_settings = self.settings.channels[channel]
        pool = self.pool(channel)
        deadline = max(provider.longest for provider in channel_settings.providers.values())
        stage = Delivery(
            channel, pool, self.wiring, self.metrics, channel_settings.window, deadline,
            milliseconds(self.settings.retention.attempts),
        )  # fmt: skip
        plain = topics.MESSAGES[channel]
        name = self.wiring.name
        app.effect_stage(f"deliver-{channel}", name(plain + topics.EXPRESS), name(plain), stage=stage)

    def pool(self, channel: Channel) -> Pool:
        """The channel's providers, in the order of failover."""
        if channel not in self.pools:
            of_channel = self.settings.channels[channel]
            order = of_channel.order or tuple(of_channel.providers)
            if not order:
                raise SettingsError(f"channels.{channel}.providers: there is none")
            place = Place(Path(self.settings.state_dir), self.settings.web.public_url, self.attached)
            chosen = {name: of_channel.providers[name] for name in order}
            self.pools[channel] = Pool(
                [registry.make(name, found, place) for name, found in chosen.items()],
                {n: one.limit_per_second * one.headroom for n, one in chosen.items() if one.limit_per_second},
                of_channel.countries,
                country_of,
            )
        return self.pools[channel]

    # -- status

    def _status(self, app: UnitApp) -> None:
        name = self.wiring.name
        reject = partial(self._dead, topics.DEAD_STATUS)
        app.stage("contents", name(topics.CONTENTS), decide=self._keep, reject=reject)
        app.stage("status", name(topics.DELIVERY_STATUS), decide=self._tell, reject=reject)

    def _keep(self, record: Record, unit: Unit) -> None:
        found = remember.remember_contents(record.value, unit)
        if found is not None:
            self.wiring.send(unit, report.hear(found, origin_of(record), unit, unit.number, unit.mark))

    def _tell(self, record: Record, unit: Unit) -> None:
        status, changed = remember.remember_status(record.value, record.timestamp, unit)
        if changed:
            self.metrics.told(status.channel, status.state)
        if status.state in remember.SIGNALLED:
            self.wiring.send(unit, remember.signals(status, unit))
        if early := report.catch_up(status, unit, unit.number, unit.mark):
            self.wiring.send(unit, early)


def __getattr__(name: str) -> Any:
    """Each role's App by its name, built when it is asked for."""
    if name in ROLES:
        return Roles(load(), Catalogue(), Metrics()).build(name)
    raise AttributeError(name)
