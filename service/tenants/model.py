"""The JSON of tenants."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from service.limits import TENANT_NAME_RULE, TenantName


class NewTenant(Struct, frozen=True, forbid_unknown_fields=True):
    tenant: Annotated[TenantName, Meta(description=f"a name of {TENANT_NAME_RULE}")]


class Tenant(Struct, frozen=True):
    """`suspended_at`: since when it submits nothing and nothing of it is claimed. `deleted_at`: since when it is being
    deleted, and unknown to clients. `queued` and `processing` count its messages."""

    tenant: str
    created_at: datetime
    suspended_at: datetime | None
    deleted_at: datetime | None
    queued: int
    processing: int
    awaited_transactions: int  # that were open at the deletion and may still write: the deletion ends after them


class TenantLimits(Struct, frozen=True):
    """What limits a tenant, and what it used. A limit that is None does not exist."""

    queued: int
    max_queued: int | None
    running: int
    max_running: int | None
    submits_left: int | None  # how many messages it may submit now
    per_minute: int | None
    bytes_today: int  # since midnight UTC, where there is a limit
    bytes_per_day: int | None
    store_bytes: int  # in all of its stores together
    max_store_bytes: int | None
