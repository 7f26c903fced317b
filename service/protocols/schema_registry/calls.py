"""What the handlers of the dialect share: the caller, the registry, the media type."""

import functools
from typing import Any, TypeAlias

import litestar
from litestar import Request
from litestar.di import NamedDependency

from service.access.principal import Principal
from service.errors import Forbidden
from service.protocols.schema_registry.errors import MEDIA_TYPE
from service.schemas.registry import Registry

AnyRequest: TypeAlias = Request[Any, Any, Any]
Caller: TypeAlias = NamedDependency[Principal]
Schemas: TypeAlias = NamedDependency[Registry]

get = functools.partial(litestar.get, media_type=MEDIA_TYPE)
put = functools.partial(litestar.put, media_type=MEDIA_TYPE)
post = functools.partial(litestar.post, media_type=MEDIA_TYPE, status_code=200)
delete = functools.partial(litestar.delete, media_type=MEDIA_TYPE, status_code=200)


def caller_of(principal: NamedDependency[Principal]) -> Principal:
    """Schemas belong to the tenant as a whole. Raises Forbidden."""
    if principal.reach is not None:
        raise Forbidden("Schemas need a key or token without restrictions.")
    return principal
