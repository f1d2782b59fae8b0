"""The command line."""

import asyncio
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError
from pydantic import BaseModel, SecretStr

from agents import letters
from agents import topics as names
from agents.letters import Said
from agents.redrive import To
from pipeline import __version__, dead_letters, topics
from pipeline.broker import BrokerUnavailable, EmbeddedKafka
from pipeline.broker.commands import broker
from pipeline.dead_letters import DeadLetterError, Redrive, UnknownProvider
from pipeline.rules import RulesBroken
from pipeline.settings import Settings, SettingsError, bootstrap_servers, load
from pipeline.simulate import simulate_provider
from schemas.event import milliseconds
from schemas.times import typed_time

MAX_LINE = 1_000_000


class _Failing(click.Group):
    """A group whose commands end with one clear line and status 1 where we know what is wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (SettingsError, RulesBroken, BrokerUnavailable, DeadLetterError) as error:
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
main.add_command(simulate_provider)
_config = click.option(
    "--config", type=click.Path(path_type=Path), help="Settings; default: carillon.toml here."
)


@main.command()
@click.option("--role", default="", help="core, email, …, status, with commas between; default: all.")
@_config
def run(role: str, config: Path | None) -> None:
    """Run roles: all of them, or those of --role."""
    wanted = tuple(name.strip() for name in role.split(",") if name.strip())
    for name in wanted:
        if name not in topics.ROLES:
            raise click.BadParameter(
                f"{name}: no such role; there are {', '.join(topics.ROLES)}", param_hint="--role"
            )
    settings = load(config)
    _log(settings.log_level)
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


@main.command()
@click.option(
    "--group", type=click.Choice(topics.ROLES), help="Everything that a role reads, people left out."
)
@click.option("--topic", help="One topic that a role reads; with --partition.")
@click.option("--partition", type=click.IntRange(0), help="One partition of --topic.")
@click.option(
    "--to",
    help="earliest, latest, a time (RFC 3339), or an offset of --partition; narrowed: from where (earliest).",
)
@click.option("--event", nargs=2, multiple=True, metavar="SOURCE ID", help="Narrow to an upstream event.")
@click.option("--id", "ids", multiple=True, metavar="ID", help="Narrow to a notification.")
@click.option("--user", multiple=True, metavar="USER_ID", help="Narrow to a user.")
@click.option(
    "--reason", multiple=True, metavar="REASON", help="Narrow to what ended so, such as template_failed."
)
@click.option("--resend", is_flag=True, help="Of core, narrowed: send the chosen ones anew.")
@click.option(
    "--generation", type=click.IntRange(1), help="Go on with a --resend that was cut off; nothing goes twice."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be sent, and why.")
@click.option("--json", "as_json", is_flag=True)
@_config
def replay(
    group: str | None,
    topic: str | None,
    partition: int | None,
    to: str | None,
    event: tuple[tuple[str, str], ...],
    ids: tuple[str, ...],
    user: tuple[str, ...],
    reason: tuple[str, ...],
    resend: bool,
    generation: int | None,
    dry_run: bool,
    as_json: bool,
    config: Path | None,
) -> None:
    """Let a group begin anew at an earlier or later place. What was sent stays sent.

    Narrowed by --event, --id, --user or --reason (several of one kind are alternatives, several kinds must
    agree) the group stays where it is, and only what is chosen of what it has read comes up again.
    """
    from agents.narrow import Narrowing
    from pipeline import replays
    from pipeline.replay import Misused

    narrowing = Narrowing(frozenset(event), frozenset(ids), frozenset(user), frozenset(reason))
    request = replays.Request(group, topic, partition, to, narrowing, resend, generation, dry_run)
    settings = load(config)
    try:
        replays.check(settings, request)
        settings = _with_broker(settings)
        _quieten_clients()
        told = asyncio.run(replays.perform(settings, request, lambda line: click.echo(line, err=True)))
    except Misused as error:
        raise click.UsageError(str(error)) from None
    click.echo(orjson.dumps(told.figures).decode() if as_json else told.text)


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
def dlq() -> None:
    """Look at dead letters, put them back, delete them."""


_topic = click.option("--topic", help="One topic of dead letters, such as dlq-email; default: all.")
_reason = click.option("--reason", help="Those that give this reason, such as refused.")
_provider = click.option("--provider", help="Those that this provider was called for last.")
_codes = click.option(
    "--code",
    "codes",
    multiple=True,
    help="Those with this code of the vendor's, such as 550 or 'HTTP 4*'; several are alternatives.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
MOST_LISTED = 10_000


@dlq.command("list")
@_topic
@_reason
@_provider
@_codes
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, MOST_LISTED))
@_json
@_config
def list_letters(
    topic: str | None,
    reason: str | None,
    provider: str | None,
    codes: tuple[str, ...],
    limit: int,
    as_json: bool,
    config: Path | None,
) -> None:
    """List dead letters, the newest first, without their bytes and without addresses."""
    settings = _for_letters(config)
    said = Said(reason, provider, codes)
    told = asyncio.run(dead_letters.newest(settings, _named(settings, topic), said, limit))
    if as_json:
        click.echo(orjson.dumps({"letters": told}).decode())
        return
    for one in told:
        event = one["event"]
        whose = one["notification_id"] or (event and f"{event['source']} {event['id']}") or "-"
        click.echo(
            f"{one['topic']} {one['partition']} {one['offset']}  {one['failed_at']}  {one['reason']}"
            f"  attempts={one['attempts']}  by={one['provider'] or '-'}  code={one['code'] or '-'}"
            f"  from={one['source'] or '-'}  {whose}  {one['error']}"
        )
    click.echo(f"{len(told)} dead letters{' or more' if len(told) == limit else ''}", err=True)


@dlq.command("show")
@click.argument("topic")
@click.argument("partition", type=click.IntRange(0))
@click.argument("offset", type=click.IntRange(0))
@_json
@_config
def show_letter(topic: str, partition: int, offset: int, as_json: bool, config: Path | None) -> None:
    """Show one dead letter with its headers and the original bytes, addresses and all."""
    settings = _for_letters(config)
    letter = asyncio.run(dead_letters.find(settings, _named(settings, topic)[0], partition, offset))
    if as_json:
        click.echo(orjson.dumps(letters.whole(letter)).decode())
        return
    for name, value in letter.headers:
        click.echo(f"{letters.escaped(name)}: {letters.escaped(letters.text(value or b''))}")
    click.echo(f"key: {letters.escaped(letters.text(letter.key or b''))}\n")
    click.echo("(no value)" if letter.value is None else letters.escaped(letters.text(letter.value)))


@dlq.command("redrive")
@click.argument("place", nargs=-1, metavar="[TOPIC PARTITION OFFSET]")
@_topic
@_reason
@_provider
@_codes
@click.option("--to-provider", metavar="NAME", help="The provider that is to send them now.")
@click.option("--dry-run", is_flag=True, help="Only say what would go where.")
@_json
@_config
def redrive_letters(
    place: tuple[str, ...],
    topic: str | None,
    reason: str | None,
    provider: str | None,
    codes: tuple[str, ...],
    to_provider: str | None,
    dry_run: bool,
    as_json: bool,
    config: Path | None,
) -> None:
    """Put one dead letter, or those that the options choose, back on the topic that it came from.

    What has failed is tried again in full; what was sent is not sent again, and with --to-provider neither is
    what another provider may have sent. The letter stays where it is.
    """
    said = Said(reason, provider, codes)
    if bool(place) == bool(topic or said.asks):
        raise click.UsageError(
            "Give TOPIC PARTITION OFFSET, or else one or more of --topic, --reason, --provider and --code."
        )
    settings = _for_letters(config)
    if place:
        wanted, partition, offset = _placed(settings, place)
        to = _to(settings, to_provider, [wanted])
        letter = asyncio.run(dead_letters.find(settings, wanted, partition, offset))
        found = dead_letters.one(letter)
    else:
        meant = _named(settings, topic)
        to = _to(settings, to_provider, meant)
        found = dead_letters.chosen(settings, meant, said)
    done, failed = [0], list[Redrive]()

    def tell(one: Redrive) -> None:
        done[0] += one.to is not None
        if one.to is None:
            failed.append(one)
        elif not as_json:
            click.echo(f"{one.letter} → {one.to}")

    asyncio.run(dead_letters.put_back(settings, found, dry_run=dry_run, tell=tell, to=to))
    if as_json:
        told = [{"letter": one.letter, "why": one.why} for one in failed[:MOST_LISTED]]
        click.echo(orjson.dumps({"dry_run": dry_run, "redriven": done[0], "failed": told}).decode())
    else:
        click.echo(f"{done[0]} {'would be ' if dry_run else ''}redriven", err=True)
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise DeadLetterError(f"{failed[0].letter} was not redriven: {failed[0].why}{more}")


@dlq.command("purge")
@click.argument("topic", required=False)
@click.option("--before", metavar="TIME", help="Those from before this time (RFC 3339); default: all.")
@click.option("--yes", is_flag=True, help="Delete them for good; else it only says what would go.")
@_json
@_config
def purge_letters(
    topic: str | None, before: str | None, yes: bool, as_json: bool, config: Path | None
) -> None:
    """Delete dead letters up to now, of one topic or of all."""
    moment = _moment(before)
    settings = _for_letters(config)
    found = asyncio.run(dead_letters.purges(settings, _named(settings, topic), moment))
    if yes and found:
        asyncio.run(dead_letters.purge(settings, found))
    count = sum(one.before - one.first for one in found)
    if as_json:
        told = [one._asdict() for one in found]
        click.echo(orjson.dumps({"deleted": yes, "records": count, "partitions": told}).decode())
    else:
        for one in found:
            click.echo(f"{one.topic} {one.partition}  {one.first} to {one.before - 1}")
        click.echo(f"{count} {'deleted' if yes else 'would be deleted'}", err=True)
    if not yes:
        click.echo("carillon: nothing is deleted without --yes", err=True)
        raise click.exceptions.Exit(2)


def _for_letters(config: Path | None) -> Settings:
    settings = _with_broker(load(config))
    _quieten_clients()
    return settings


def _to(settings: Settings, provider: str | None, meant: Sequence[str]) -> To | None:
    """Who is to send what goes back. Wrong use, where none of the topics' channels has that provider."""
    try:
        return dead_letters.to(settings, provider, meant)
    except UnknownProvider as error:
        raise click.BadParameter(str(error), param_hint="--to-provider") from None


def _named(settings: Settings, topic: str | None) -> Sequence[str]:
    """The topics that are meant. Wrong use, where it is none of dead letters."""
    try:
        return dead_letters.names(settings, topic)
    except KeyError:
        raise click.BadParameter(
            f"{topic}: no topic of dead letters; there are {', '.join(letters.DEAD)}", param_hint="topic"
        ) from None


def _placed(settings: Settings, place: Sequence[str]) -> tuple[str, int, int]:
    try:
        topic, partition, offset = place
        if not (partition.isdecimal() and offset.isdecimal()):
            raise ValueError(place)
    except ValueError:
        raise click.UsageError("A place is TOPIC PARTITION OFFSET.") from None
    return _named(settings, topic)[0], int(partition), int(offset)


def _moment(text: str | None) -> int | None:
    try:
        return milliseconds(typed_time(text)) if text is not None else None
    except ValueError:
        raise click.BadParameter(
            f"{text}: not a time with its zone, such as 2026-09-21T14:00:00Z", param_hint="--before"
        ) from None


@main.command("explain")
@click.argument("notification", required=False, metavar="[ID]")
@click.option("--event", nargs=2, metavar="SOURCE ID", help="What came of an upstream event instead.")
@click.option("--user", help="With --event: for this user.")
@_json
@_config
def explain_command(
    notification: str | None,
    event: tuple[str, str] | None,
    user: str | None,
    as_json: bool,
    config: Path | None,
) -> None:
    """Say why somebody was told, or was not: by a notification's ID, or by its event.

    Asks a running process, if operator_token is set; else reads what status remembers from Kafka.
    """
    from pipeline import explaining
    from pipeline.web.story import Asked

    if (notification is None) == (event is None):
        raise click.UsageError("Give an ID, or else --event SOURCE ID.")
    if user is not None and event is None:
        raise click.UsageError("--user goes with --event.")
    if notification is not None:
        _hash_in(notification)
    asked = Asked(notification, *(event or ("", "")), user)
    settings = load(config)
    try:
        told = explaining.ask(settings, asked)
    except explaining.NoAnswer as error:
        settings = _with_broker(settings)
        if settings.operator_token is not None:
            click.echo(f"no process answers ({error}): reading from Kafka", err=True)
        _quieten_clients()
        told = asyncio.run(explaining.read(settings, asked, lambda line: click.echo(line, err=True)))
    if as_json:
        stories = [one._asdict() for one in told.stories]
        click.echo(orjson.dumps({**told._asdict(), "stories": stories}).decode())
    else:
        click.echo(letters.escaped(told.text))


@main.command("cancel")
@click.argument("notification", metavar="ID")
@click.option("--user", help="Whose it is, where no process answers that could tell.")
@_json
@_config
def cancel_command(notification: str, user: str | None, as_json: bool, config: Path | None) -> None:
    """Cancel what has not been sent of a notification; `carillon explain` tells whether it was in time."""
    from pipeline import cancelling, explaining
    from schemas.ids import user_hash

    if user is not None and user_hash(user) != _hash_in(notification):
        raise click.BadParameter(f"{notification} is not of this user", param_hint="--user")
    _hash_in(notification)
    settings = load(config)
    try:
        explaining.over_http(settings, "DELETE", f"notifications/{notification}", user_id=user)
    except explaining.NoAnswer:
        settings = _with_broker(settings)
        _quieten_clients()
        asyncio.run(cancelling.cancel(settings, notification, user or ""))
    if as_json:
        click.echo(orjson.dumps({"notification_id": notification}).decode())
    else:
        click.echo(f"core is asked to cancel it; `carillon explain {notification}` tells what came of that")


def _hash_in(notification: str) -> int:
    from schemas.ids import hash_in

    try:
        return hash_in(notification)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="ID") from None


@main.group()
def config() -> None:
    """Look at settings; keep workflows and templates as files."""


_directory = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
_prune = click.option("--prune", is_flag=True, help="Also remove what the other side does not have.")


@config.command("export")
@_directory
@_prune
@_json
@_config
def export_config(directory: Path, prune: bool, as_json: bool, config: Path | None) -> None:
    """Write the workflows and templates that are in force into DIRECTORY, a YAML file each."""
    from pipeline import config_files

    settings = _with_broker(load(config))
    _quieten_clients()
    told = asyncio.run(config_files.export(settings, directory, prune=prune))
    if as_json:
        click.echo(orjson.dumps(told._asdict()).decode())
        return
    for verb, files in (("wrote", told.written), ("removed", told.removed)):
        for name in files:
            click.echo(f"{verb} {name}")
    click.echo(
        f"{len(told.written)} written, {len(told.removed)} removed, {len(told.same)} the same", err=True
    )


@config.command("apply")
@_directory
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@_prune
@_json
@_config
def apply_config(directory: Path, dry_run: bool, prune: bool, as_json: bool, config: Path | None) -> None:
    """Publish what DIRECTORY has otherwise than what is in force; a broken file stops it before it begins."""
    from pipeline import config_files

    settings = load(config)
    config_files.load(directory)
    settings = _with_broker(settings)
    _quieten_clients()
    found = asyncio.run(_apply(settings, directory, dry_run=dry_run, prune=prune))
    if as_json:
        told = [{"verb": one.verb, "kind": one.kind, "name": one.name} for one in found]
        click.echo(orjson.dumps({"dry_run": dry_run, "changes": told}).decode())
        return
    for one in found:
        click.echo(f"{'would ' if dry_run else ''}{one.verb} {one.kind} {one.name}")
    click.echo(f"{len(found)} {'would be ' if dry_run else ''}changed", err=True)


async def _apply(settings: Settings, directory: Path, *, dry_run: bool, prune: bool) -> Any:
    from pipeline import config_files

    found = await config_files.changes(settings, directory, prune=prune)
    if not dry_run:
        await config_files.publish(settings, found)
    return found


@config.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print them on one line.")
@_config
def show(as_json: bool, config: Path | None) -> None:
    """Print every setting as it is in force; secrets are masked."""
    settings = load(config)
    found = _masked(settings)
    found["kafka"]["bootstrap_servers"] = bootstrap_servers(settings)
    click.echo(orjson.dumps(found, option=0 if as_json else orjson.OPT_INDENT_2).decode())


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
