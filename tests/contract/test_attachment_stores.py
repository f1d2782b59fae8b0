"""Every store of attachments keeps the same promises: a directory, and a bucket of moto's server."""

import asyncio
import itertools
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from moto.server import ThreadedMotoServer

from pipeline.attachments import Attachment, Damaged, Missing, Store, Terms, Unreachable, local, s3, stores
from pipeline.attachments.local import LocalStore
from pipeline.settings import SettingsError, given
from schemas import attachment
from schemas.attachment import DAY

NOW = 1_790_000_000.0
TODAY = int(NOW // DAY)
KEEP, SLACK = 30, 9
NAME, TYPE, DATA = "Rechnung Nr. 7 für Käthe 🎉.pdf", "application/pdf", bytes(range(256)) * 40
OVER = (TODAY + KEEP + 1 + SLACK) * DAY
"""From then on what was stored now is kept no longer."""
HOSTILE = [
    "../x", "..", "", "\0", "x" * 300, "a/b", "/etc/passwd", "a" * 32, f"{'a' * 32}-5-20000\n",
    f"../{'a' * 29}-5-20000", f"{'A' * 32}-5-20000", f"{'a' * 32}-05-20000", f"{'a' * 32}-0-20000",
    f"{'a' * 32}-²-20000", f"{'a' * 32}-5-٣", f"{'a' * 32}-5", "\ud800", f"{'a' * 32}-5-20000/",
]  # fmt: skip


class Clock:
    """One that stands where it is put."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Kept(NamedTuple):
    """A store, its clock, and how what it has can be spoilt."""

    store: Store
    clock: Clock
    spoil: Any
    names: Any


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def bucket(endpoint: str, **more: Any) -> dict[str, Any]:
    return {
        "store": "s3", "bucket": "files", "endpoint_url": endpoint, "access_key_id": "key",
        "secret_access_key": "hush", **more,
    }  # fmt: skip


@pytest.fixture(params=["local", "s3"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    clock, turn = Clock(), itertools.count(1)

    def token(size: int) -> bytes:
        n = next(turn)  # in two directories, whose names are the first two digits
        return bytes([n % 2]) + n.to_bytes(size - 1)

    terms = Terms(100_000, KEEP, SLACK, clock=clock, token=token)
    if request.param == "local":
        directory = tmp_path / "kept" / "here"
        store: Store = LocalStore(directory, terms)

        def spoil(id: str, change: Any) -> None:
            path = directory / id[:2] / id
            path.write_bytes(change(path.read_bytes()))

        def names() -> list[str]:
            return sorted(path.name for path in directory.rglob("*") if path.is_file())

    else:
        endpoint = request.getfixturevalue("aws")
        store = s3.make(given(attachments=bucket(endpoint)).attachments, terms)
        client = store._client
        if "Buckets" in (found := client.list_buckets()) and not found["Buckets"]:
            client.create_bucket(Bucket="files")
        for one in client.list_objects_v2(Bucket="files").get("Contents", ()):
            client.delete_object(Bucket="files", Key=one["Key"])

        def spoil(id: str, change: Any) -> None:
            found = client.get_object(Bucket="files", Key=s3.PREFIX + id)
            with found["Body"] as body:
                data = body.read()
            client.put_object(
                Bucket="files", Key=s3.PREFIX + id, Body=change(data), ContentType=found["ContentType"],
                Metadata=found["Metadata"],
            )  # fmt: skip

        def names() -> list[str]:
            found = client.list_objects_v2(Bucket="files").get("Contents", ())
            return [one["Key"].removeprefix(s3.PREFIX) for one in found]

    yield Kept(store, clock, spoil, names)
    await store.close()


async def test_what_was_put_is_what_is_got(kept: Kept) -> None:
    id = await kept.store.put(NAME, TYPE, DATA)
    assert await kept.store.get(id) == Attachment(NAME, TYPE, DATA)
    told = attachment.read(id)
    assert told is not None and (told.size, told.last_day) == (len(DATA), TODAY + KEEP)


async def test_the_same_file_again_is_another(kept: Kept) -> None:
    ids = {await kept.store.put(NAME, TYPE, DATA) for _ in range(5)}
    assert len(ids) == 5
    assert len({id[:32] for id in ids}) == 5


@pytest.mark.parametrize("id", HOSTILE, ids=[f"hostile-{n}" for n in range(len(HOSTILE))])
async def test_what_is_no_id_is_missing_and_touches_nothing(kept: Kept, id: str) -> None:
    with pytest.raises(Missing) as told:
        await kept.store.get(id)
    assert str(told.value) == "not the id of an attachment"


async def test_an_id_that_was_never_given_is_missing(kept: Kept) -> None:
    id = await kept.store.put(NAME, TYPE, DATA)
    token, size, day = id.split("-")
    for other in (f"{'0' * 32}-{size}-{day}", f"{token}-{int(size) + 1}-{day}", f"{token}-{size}-{day}0"):
        with pytest.raises(Missing):
            await kept.store.get(other)


@pytest.mark.parametrize(
    "change",
    [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:-1] + b"!", lambda data: b""],
)
async def test_what_is_not_what_was_put_is_damaged(kept: Kept, change: Any) -> None:
    id = await kept.store.put(NAME, TYPE, DATA)
    kept.spoil(id, change)
    with pytest.raises(Damaged):
        await kept.store.get(id)


@pytest.mark.parametrize("size", [0, 100_001])
async def test_what_has_no_fitting_size_is_not_put(kept: Kept, size: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 100000"):
        await kept.store.put(NAME, TYPE, b"x" * size)
    assert kept.names() == []


async def test_a_sweep_takes_what_is_over_and_leaves_the_rest(kept: Kept) -> None:
    old = [await kept.store.put(NAME, TYPE, DATA) for _ in range(3)]
    kept.clock.now += DAY
    young = await kept.store.put(NAME, TYPE, DATA)
    assert await kept.store.sweep(OVER - 1) == (0, "")
    assert await kept.store.sweep(OVER) == (3, "")
    assert kept.names() == [young]
    for id in old:
        with pytest.raises(Missing):
            await kept.store.get(id)
    assert (await kept.store.get(young)).data == DATA
    assert await kept.store.sweep(OVER + DAY) == (1, "")


async def test_a_sweep_is_bounded_and_goes_on_where_it_ended(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PAGE", 4)
    monkeypatch.setattr(s3, "PAGE", 4)
    for n in range(10):
        kept.clock.now = NOW if n % 4 < 2 else NOW + 5 * DAY
        await kept.store.put(NAME, TYPE, b"x")
    deleted, after, pages = 0, "", 0
    while True:
        swept = await kept.store.sweep(OVER, after)
        assert swept.deleted <= 4
        deleted, after, pages = deleted + swept.deleted, swept.after, pages + 1
        if not after:
            break
    assert (deleted, pages, len(kept.names())) == (6, 3, 4)


async def test_a_sweep_leaves_what_is_not_ours(kept: Kept) -> None:
    id = await kept.store.put(NAME, TYPE, DATA)
    if isinstance(kept.store, LocalStore):
        for other in (kept.store.directory / "notes.txt", kept.store.directory / id[:2] / "notes.txt"):
            other.write_text("mine")
    else:
        kept.store._client.put_object(Bucket="files", Key=s3.PREFIX + "notes.txt", Body=b"mine")  # type: ignore[attr-defined]
        kept.store._client.put_object(Bucket="files", Key=id, Body=b"mine")  # type: ignore[attr-defined]
    assert (await kept.store.sweep(OVER)).deleted == 1
    left = kept.names()
    assert set(left) <= {"notes.txt", id} and "notes.txt" in left and len(left) == 2


# -- a directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "attachments"


@pytest.fixture
def here(directory: Path) -> LocalStore:
    return LocalStore(directory, Terms(100_000, KEEP, SLACK, clock=Clock()))


def bits(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_files_are_for_this_user_alone(here: LocalStore, directory: Path) -> None:
    before = os.umask(0)
    try:
        id = await here.put(NAME, TYPE, DATA)
    finally:
        os.umask(before)
    assert bits(directory / id[:2] / id) == 0o600
    assert [bits(path) for path in (directory, directory / id[:2], directory / "incoming")] == [0o700] * 3


async def test_a_file_is_there_whole_or_not_at_all(
    here: LocalStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unreachable, match="No space left"):
        await here.put(NAME, TYPE, DATA)
    assert [path for path in directory.rglob("*") if path.is_file()] == []


async def test_what_was_given_up_while_it_was_written_is_swept(here: LocalStore, directory: Path) -> None:
    id = await here.put(NAME, TYPE, DATA)
    for age in (local.PART_SECONDS, local.PART_SECONDS - 1):
        part = directory / "incoming" / f"{age:.0f}.part"
        part.write_bytes(b"half")
        os.utime(part, (NOW - age, NOW - age))
    assert await here.sweep(NOW) == (1, "")
    assert [path.name for path in (directory / "incoming").iterdir()] == [
        f"{local.PART_SECONDS - 1:.0f}.part"
    ]
    assert (await here.get(id)).data == DATA


async def test_a_link_or_a_pipe_in_the_place_of_a_file_is_not_followed(
    here: LocalStore, directory: Path, tmp_path: Path
) -> None:
    id = await here.put(NAME, TYPE, DATA)
    place = directory / id[:2] / id
    secret = tmp_path / "secret"
    place.rename(secret)
    place.symlink_to(secret)
    with pytest.raises(Unreachable):
        await here.get(id)
    place.unlink()
    os.mkfifo(place)
    async with asyncio.timeout(5):
        with pytest.raises(Damaged):
            await here.get(id)


async def test_a_directory_that_is_not_there_has_lost_nothing_yet(here: LocalStore, directory: Path) -> None:
    id = await here.put(NAME, TYPE, DATA)
    directory.rename(directory.parent / "unmounted")
    with pytest.raises(Unreachable):
        await here.get(id)
    assert await here.sweep(OVER) == (0, "")
    (directory.parent / "unmounted").rename(directory)
    assert (await here.get(id)).data == DATA


# -- a bucket


async def test_an_object_can_be_read_by_others_as_what_it_is(aws: str) -> None:
    store = s3.make(given(attachments=bucket(aws)).attachments, Terms(100_000, KEEP, SLACK))
    client = store._client
    client.create_bucket(Bucket="files")
    id = await store.put(NAME, TYPE, DATA)
    head = client.head_object(Bucket="files", Key=f"attachments/{id}")
    assert (head["ContentType"], head["ContentLength"]) == (TYPE, len(DATA))
    await store.close()


async def test_a_bucket_that_is_not_there_is_unreachable(aws: str) -> None:
    store = s3.make(given(attachments=bucket(aws, bucket="none")).attachments, Terms(9, KEEP, SLACK))
    for call in (store.put("a", TYPE, b"x"), store.get(f"{'a' * 32}-5-20000"), store.sweep(NOW)):
        with pytest.raises(Unreachable, match="NoSuchBucket"):
            await call
    await store.close()


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}"
        store = s3.make(given(attachments=bucket(endpoint)).attachments, Terms(9, KEEP, SLACK))
        with pytest.raises(Unreachable) as told:
            await store.get(f"{'a' * 32}-5-20000")
    assert str(told.value) == "attachments: EndpointConnectionError"
    await store.close()


# -- settings


def test_the_store_that_is_set_is_the_one_that_is_used(tmp_path: Path, aws: str) -> None:
    state = given(state_dir=tmp_path)
    here = stores.of(state)
    assert isinstance(here, LocalStore) and here.directory == tmp_path / "attachments"
    elsewhere = stores.of(given(attachments={"directory": tmp_path / "x", "max_bytes": 7}))
    assert isinstance(elsewhere, LocalStore) and elsewhere.directory == tmp_path / "x"
    assert elsewhere.max_bytes == 7
    assert isinstance(stores.of(given(attachments=bucket(aws))), s3.S3Store)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"bucket": None}, "attachments.bucket"),
        ({"access_key_id": None}, "attachments.access_key_id"),
        ({"secret_access_key": None}, "attachments.access_key_id"),
        ({"endpoint_url": "no address"}, "attachments: "),
    ],
)
def test_a_bucket_that_is_half_set_stops_the_process(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told) as error:
        stores.of(given(attachments=bucket("http://127.0.0.1:1", **fields)))
    assert "hush" not in str(error.value)


def test_ids_are_not_to_be_guessed() -> None:
    terms = Terms(10, KEEP, SLACK)
    assert len({terms.new_id(b"x") for _ in range(1_000)}) == 1_000


def test_what_is_kept_outlives_the_attempts_that_are_remembered() -> None:
    found = given()
    assert found.attachments.keep_days > found.retention.attempts
