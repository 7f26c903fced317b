"""The types of messages by name, and their forms: JSON, binary, base64.

    from treadle.types import TYPES

    TYPES.add(Order)
    TYPES.read_json("Order", '{"number": 1}')

Types are msgspec Structs, dataclasses and Protobuf classes.
"""

from service.agents.types import TYPES, Types

__all__ = ["TYPES", "Types"]
