"""Attachments in a bucket of S3, or of whatever speaks its protocol: an object each, below one prefix.

The type is the object's own; the name, and by what a damaged one is known, are its metadata.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.attachments.store import PAGE, Attachment, Missing, Swept, Terms, Unreachable
from pipeline.attachments.store import checked as checked_id
from pipeline.attachments.store import digest as digest_of
from pipeline.attachments.store import whole as whole_of
from pipeline.sections import SettingsError
from pipeline.settings import AttachmentSettings
from schemas import attachment
from schemas.attachment import AttachmentId

PREFIX = "attachments/"
THREADS = 8
CONNECT_SECONDS, READ_SECONDS = 3, 5
T = TypeVar("T")
GONE = frozenset({"NoSuchKey", "404", "NotFound"})


class S3Store:
    """Keeps attachments in a bucket, by calls that block in threads of its own."""

    def __init__(self, client: Any, bucket: str, terms: Terms) -> None:
        self.max_bytes, self._client, self._bucket, self._terms = terms.max_bytes, client, bucket, terms
        self._threads = ThreadPoolExecutor(THREADS, "attachments")

    async def put(self, name: str, content_type: str, data: bytes) -> str:
        """Stores a file for good and gives it an id. Raises Unreachable, and ValueError for its size."""
        id = self._terms.new_id(data)
        told = {"name": quote(name, safe=""), "digest": digest_of(name, content_type, data)}
        await self._do(
            lambda: self._client.put_object(
                Bucket=self._bucket, Key=PREFIX + id, Body=data, ContentType=content_type, Metadata=told
            )
        )
        return id

    async def get(self, id: str) -> Attachment:
        """The file of an id, whatever text that is. Raises Missing, Damaged, Unreachable."""
        found = checked_id(id)
        return await self._do(lambda: self._get(found))

    async def sweep(self, now: float, after: str = "") -> Swept:
        """Deletes what is kept no longer, of at most PAGE behind `after`. Raises Unreachable."""
        return await self._do(lambda: self._sweep(now, after))

    async def close(self) -> None:
        """Lets connections go; what still runs in a thread ends by its time-outs."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            raise Unreachable(f"attachments: {code[:60] or 'an error without a code'}") from None
        except (BotoCoreError, OSError) as error:
            raise Unreachable(f"attachments: {type(error).__name__}") from None

    def _get(self, id: AttachmentId) -> Attachment:
        try:
            found = self._client.get_object(Bucket=self._bucket, Key=PREFIX + id.text)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in GONE:
                raise Missing(id.text) from None
            raise
        with found["Body"] as body:
            data = body.read(id.size + 1)
        told = found.get("Metadata", {})
        name = unquote(told.get("name", ""))
        return whole_of(id, Attachment(name, found.get("ContentType", ""), data), told.get("digest", ""))

    def _sweep(self, now: float, after: str) -> Swept:
        page = self._client.list_objects_v2(
            Bucket=self._bucket, Prefix=PREFIX, MaxKeys=PAGE, StartAfter=PREFIX + after
        )
        names = [str(found["Key"]).removeprefix(PREFIX) for found in page.get("Contents", ())]
        deleted = 0
        for name in names:
            id = attachment.read(name)
            if id is not None and self._terms.is_over(id, now):
                self._client.delete_object(Bucket=self._bucket, Key=PREFIX + name)
                deleted += 1
        return Swept(deleted, names[-1] if names and page.get("IsTruncated") else "")


def make(settings: AttachmentSettings, terms: Terms) -> S3Store:
    """The store of a bucket; without a key of its own, with those of the machine. Raises SettingsError."""
    secret = settings.secret_access_key
    if not settings.bucket:
        raise SettingsError("attachments.bucket: s3 needs it")
    if bool(settings.access_key_id) != bool(secret):
        raise SettingsError("attachments.access_key_id: goes with secret_access_key; set both or neither")
    config = Config(
        connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, max_pool_connections=THREADS,
        retries={"mode": "standard", "total_max_attempts": 2},
        # stores beside Amazon's know few of the newer checksums; we bring our own
        request_checksum_calculation="when_required", response_checksum_validation="when_required",
    )  # fmt: skip
    try:
        client = botocore.session.get_session().create_client(
            "s3", region_name=settings.region, endpoint_url=settings.endpoint_url, config=config,
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
        )  # fmt: skip
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"attachments: {error}") from None
    return S3Store(client, settings.bucket, terms)
