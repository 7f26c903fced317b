"""/store: values by namespace and key, which clients and agents keep beside threads."""

from typing import Any

from litestar import Response
from litestar.params import JSONBody

from service.protocols.langgraph.calls import Answer, Asked, Caller, Services, delete, get, post, put
from service.protocols.langgraph.model import ItemPlace, ItemSearch, Json, NamespaceSearch, NewItem


@put("/store/items", scope="submit")
async def put_item(data: JSONBody[NewItem], principal: Caller, langgraph: Services) -> None:
    """It takes the place of the item with this key."""
    place = {"namespace": data.namespace, "key": data.key}
    await langgraph.store.use_store(principal, {"op": "put", **place, "value": data.value, "ttl": data.ttl})


@get("/store/items", scope="read")
async def get_item(request: Asked, principal: Caller, langgraph: Services) -> Answer:
    """null for one that is not there."""
    labels, key = request.query_params.get("namespace", ""), request.query_params.get("key", "")
    refresh = request.query_params.get("refresh_ttl", "").lower() not in ("false", "0")
    place = {"namespace": labels.split(".") if labels else [], "key": key}
    item = await langgraph.store.use_store(principal, {"op": "get", **place, "refresh": refresh})
    return Response(b"null", media_type="application/json") if item is None else Response(item)


@delete("/store/items", scope="submit")
async def delete_item(data: JSONBody[ItemPlace], principal: Caller, langgraph: Services) -> None:
    await langgraph.store.use_store(principal, {"op": "delete", "namespace": data.namespace, "key": data.key})


@post("/store/items/search", scope="read")
async def search_items(data: JSONBody[ItemSearch], principal: Caller, langgraph: Services) -> Json:
    """The items whose namespaces begin with the prefix, the last changed first."""
    page = {"limit": data.limit, "offset": data.offset, "refresh": data.refresh_ttl is not False}
    found: list[Any] = await langgraph.store.use_store(
        principal, {"op": "search", "prefix": data.namespace_prefix, "filter": data.filter, **page}
    )
    return {"items": found}


@post("/store/namespaces", scope="read")
async def list_namespaces(data: JSONBody[NamespaceSearch], principal: Caller, langgraph: Services) -> Json:
    page = {"max_depth": data.max_depth, "limit": data.limit, "offset": data.offset}
    found = await langgraph.store.use_store(
        principal, {"op": "namespaces", "prefix": data.prefix, "suffix": data.suffix, **page}
    )
    return {"namespaces": found}


HANDLERS = [put_item, get_item, delete_item, search_items, list_namespaces]
