"""Why a server takes no writes: it is a standby, which a failover may change, or a setting says so."""

from typing import Any

from service.errors import AddressRejected, NotConnected

ASK = """
    select pg_is_in_recovery() as is_standby, s.setting, s.source, current_database() as database, session_user as role
    from pg_settings s
    where s.name = 'default_transaction_read_only'"""
STANDBY_DETAIL = "PostgreSQL cannot be reached: the server is a standby, which takes no writes."
PLACES = {  # by pg_settings.source
    "database": "for the database {database}",
    "user": "for the role {role}",
    "database user": "for the role {role} in the database {database}",
    "client": "in the address",
}


async def refusal(connection: Any) -> NotConnected | None:
    """The error for a server that has refused a write; None: it would take one by now."""
    found = await connection.fetchrow(ASK)
    if found["is_standby"]:
        return NotConnected(STANDBY_DETAIL)
    if found["setting"] != "on":
        return None
    place = PLACES.get(found["source"], "in the server's configuration").format_map(dict(found))
    return AddressRejected(
        f"PostgreSQL cannot be used: default_transaction_read_only is on {place}, so it takes no writes; set it to off"
        " there, or make room if your provider has set it because the disk is full."
    )
