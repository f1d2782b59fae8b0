"""Attachments: files that callers upload once, kept in a store of the project's own, fetched at delivery."""

from pipeline.attachments.attached import Attached, NotFetched
from pipeline.attachments.store import Attachment, Damaged, Missing, Store, Swept, Terms, Unreachable

__all__ = [
    "Attached", "Attachment", "Damaged", "Missing", "NotFetched", "Store", "Swept", "Terms", "Unreachable",
]  # fmt: skip
