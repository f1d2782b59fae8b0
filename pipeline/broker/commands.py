"""`carillon broker start` and `carillon broker stop`: the embedded Kafka for people at a terminal."""

import json
from pathlib import Path

import click

from pipeline.broker.detached import default_directory, start_detached, stop_detached
from pipeline.broker.failures import BrokerUnavailable

directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where its data and logs are; your user data directory unless given.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")


@click.group()
def broker() -> None:
    """The embedded Kafka: start it and leave it running, or stop it."""


@broker.command()
@click.option("--brokers", type=click.Choice(["1", "3"]), help="How many; as before in its directory, or 1.")
@directory_option
@json_option
def start(brokers: str | None, directory: Path | None, as_json: bool) -> None:
    """Start a Kafka, print its address as KAFKA_BOOTSTRAP_SERVERS=… and leave it running."""
    directory = directory or default_directory()
    try:
        servers = start_detached(int(brokers) if brokers else None, directory)
    except (BrokerUnavailable, OSError) as error:
        raise click.ClickException(str(error).splitlines()[0]) from error
    answer = json.dumps({"bootstrap_servers": servers, "directory": str(directory)})
    click.echo(answer if as_json else f"KAFKA_BOOTSTRAP_SERVERS={servers}")


@broker.command()
@directory_option
@json_option
def stop(directory: Path | None, as_json: bool) -> None:
    """Stop the Kafka that `start` left running; done as well when there is none."""
    directory = directory or default_directory()
    try:
        stopped = stop_detached(directory)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    text = f"stopped the Kafka in {directory}" if stopped else f"no Kafka was running in {directory}"
    click.echo(json.dumps({"stopped": stopped, "directory": str(directory)}) if as_json else text)
