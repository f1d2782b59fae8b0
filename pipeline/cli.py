"""The command line."""

import asyncio
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError
from pydantic import BaseModel, SecretStr

from agents import topics as names
from pipeline import __version__, topics
from pipeline.broker import BrokerUnavailable, EmbeddedKafka
from pipeline.broker.commands import broker
from pipeline.rules import RulesBroken
from pipeline.settings import Settings, SettingsError, bootstrap_servers, load

MAX_LINE = 1_000_000


class _Failing(click.Group):
    """A group whose commands end with one clear line and status 1 where we know what is wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (SettingsError, RulesBroken, BrokerUnavailable) as error:
            told = str(error)
        except TimeoutError as error:
            told = str(error) or "the broker did not answer in time"
        except OSError as error:
            told = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        except KafkaConnectionError as error:
            told = f"kafka.bootstrap_servers: no broker answers ({error})"
        except KafkaError as error:
            told = f"kafka: {error}"
        click.echo(f"carillon: {told}", err=True)
        raise click.exceptions.Exit(1)


@click.group(cls=_Failing)
@click.version_option(__version__, prog_name="carillon")
def main() -> None:
    """Carillon: a notification pipeline on Kafka."""


main.add_command(broker)
_config = click.option(
    "--config", type=click.Path(path_type=Path), help="Settings; default: carillon.toml here."
)


@main.command()
@click.option("--role", default="", help="core, email, …, status, with commas between; default: all.")
@_config
def run(role: str, config: Path | None) -> None:
    """Run roles: all of them, or those of --role."""
    settings = load(config)
    _log(settings.log_level)
    wanted = tuple(name.strip() for name in role.split(",") if name.strip())
    asyncio.run(_run(settings, wanted))


async def _run(settings: Settings, wanted: tuple[str, ...]) -> None:
    from pipeline.run import serve

    if bootstrap_servers(settings):
        await serve(settings, wanted)
        return
    with EmbeddedKafka(directory=settings.state_dir / "kafka") as kafka:
        found = settings.kafka.model_copy(update={"bootstrap_servers": kafka.bootstrap_servers})
        click.echo(f"no broker is set: an embedded one runs at {kafka.bootstrap_servers}", err=True)
        await serve(settings.model_copy(update={"kafka": found}), wanted)


@main.command()
@click.option("--events", default=2_000, show_default=True, type=click.IntRange(20, 200_000))
@click.option("--seed", default=1, show_default=True)
@click.option(
    "--port", default=8080, show_default=True, help="Of the operator pages; another if it is taken."
)
@click.option("--exit", "leave", is_flag=True, help="End when all is delivered.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON at the end.")
def demo(events: int, seed: int, port: int, leave: bool, as_json: bool) -> None:
    """Send sample events through every role and show what came of them."""
    from pipeline.demo.demo import Demo, DemoFailed, as_line

    _log("error")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a fresh broker's first seconds are noisy
    try:
        figures = asyncio.run(Demo(events, seed, port, stay=not leave, quiet=False).run())
    except DemoFailed as error:
        raise SettingsError(str(error)) from None
    if as_json:
        click.echo(as_line(figures))


@main.command("topics")
@click.option("--schemas", is_flag=True, help="Print the JSON Schema of every topic's values instead.")
@click.option("--json", "as_json", is_flag=True)
@_config
def topics_command(schemas: bool, as_json: bool, config: Path | None) -> None:
    """Create the topics that do not exist, and list them."""
    if schemas:
        from pipeline.schemas_out import document

        click.echo(orjson.dumps(document(), option=orjson.OPT_INDENT_2).decode())
        return
    settings = _with_broker(load(config))
    _quieten_clients()
    made = set(asyncio.run(topics.create(settings)))
    found = [(settings.kafka.topic_prefix + t.name, t.partitions) for t in topics.all_topics(settings)]
    if as_json:
        click.echo(orjson.dumps({n: {"partitions": p, "created": n in made} for n, p in found}).decode())
    else:
        for name, partitions in found:
            click.echo(f"{name:<45} {partitions:>3} {'created' if name in made else ''}".rstrip())


@main.command("doctor")
@click.option("--json", "as_json", is_flag=True)
@_config
def doctor_command(as_json: bool, config: Path | None) -> None:
    """Say what is wrong with a set-up, and how to mend it; status 1 if anything is.

    Changes nothing but for two empty records on `control`, by which the broker tells its time.
    """
    from pipeline import doctor

    settings = load(config)
    _quieten_clients()
    facts = asyncio.run(doctor.look(settings))
    found = doctor.findings(settings, facts)
    if as_json:
        told = {"findings": [finding._asdict() for finding in found], "skipped": facts.skipped}
        click.echo(orjson.dumps(told).decode())
    else:
        for finding in found:
            click.echo(f"{finding.what}: {finding.mend}")
        for reason in facts.skipped:
            click.echo(f"not checked: {reason}")
        if not found:
            click.echo("nothing is wrong")
    if found:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--express", is_flag=True, help="Into the lane for critical and high priority.")
@_config
def send(file: str, express: bool, config: Path | None) -> None:
    """Put events (JSON lines; - for standard input) on the events topic."""
    with click.open_file(file, "rb") as lines:
        settings = _with_broker(load(config))
        _quieten_clients()
        count = asyncio.run(_send(settings, lines, express))
    click.echo(f"{count} sent", err=True)


async def _send(settings: Settings, lines: Iterable[bytes], express: bool) -> int:
    topic = settings.kafka.topic_prefix + names.EVENTS + (names.EXPRESS if express else "")
    producer = AIOKafkaProducer(
        **topics.client_options(settings), acks="all", linger_ms=5, enable_idempotence=True
    )
    sent = []
    try:
        await producer.start()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if len(line) > MAX_LINE:
                raise SettingsError(f"line {number}: more than {MAX_LINE} bytes")
            try:
                orjson.loads(line)
            except ValueError as error:
                raise SettingsError(f"line {number}: not JSON: {error}") from None
            sent.append(await producer.send(topic, line.strip()))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return len(sent)


@main.group()
def config() -> None:
    """Look at settings."""


@config.command("show")
@_config
def show(config: Path | None) -> None:
    """Print every setting as it is in force; secrets are masked."""
    settings = load(config)
    found = _masked(settings)
    found["kafka"]["bootstrap_servers"] = bootstrap_servers(settings)
    click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())


def _masked(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "••••" if value.get_secret_value() else ""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {field.alias or name: _masked(getattr(value, name)) for name, field in fields.items()}
    if isinstance(value, dict):
        return {str(name): _masked(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _with_broker(settings: Settings) -> Settings:
    if not bootstrap_servers(settings):
        raise SettingsError(
            "kafka.bootstrap_servers: not set. Set it or KAFKA_BOOTSTRAP_SERVERS; "
            "`carillon broker start` starts one and prints its address"
        )
    return settings


def _log(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    for noisy in ("aiokafka", "faust", "mode", "uvicorn", "mail.log"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))


def _quieten_clients() -> None:
    """For commands that say themselves, in one line, what went wrong."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    main()
