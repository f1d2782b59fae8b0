"""Faust, extended: units of work, awaited record batches, exact offsets, one atomic store a role.

The engine knows Kafka, RocksDB and nothing of notifications: no stage, no provider, no template.
"""

from pipeline.engine.app import UnitApp
from pipeline.engine.effects import Call, EffectStage
from pipeline.engine.failpoint import failpoint
from pipeline.engine.outbox import Outbox, RecordTooLarge
from pipeline.engine.record import Record
from pipeline.engine.rewinds import Rewind, Rewinds
from pipeline.engine.sweep import Sweep
from pipeline.engine.unit import Unit

__all__ = [
    "Call", "EffectStage", "Outbox", "Record", "RecordTooLarge", "Rewind", "Rewinds", "Sweep", "Unit",
    "UnitApp", "failpoint",
]  # fmt: skip
