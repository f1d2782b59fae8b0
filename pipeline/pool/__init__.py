"""The providers of a channel: which of them may be called now, and who is called for a message."""

from pipeline.pool.pool import Offer, Pool

__all__ = ["Offer", "Pool"]
