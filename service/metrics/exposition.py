"""The metrics of a process as text, in the format that the scraper asks for."""

from prometheus_client import ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry


def new_registry(*collectors: Collector) -> CollectorRegistry:
    """With these, and the memory, CPU time and open files of the process."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    return registry


def encode(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The text and its media type. `accept`: the header of the request."""
    encoder, media_type = choose_encoder(accept)
    return encoder(registry), media_type
