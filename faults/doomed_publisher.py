"""A publisher that a fault kills: it prints the value of each record that PostgreSQL has acknowledged.

Every second call is inside a transaction that stays open for a moment, as one of a user's own may be.
"""

import asyncio
import os
import sys

import asyncpg
import msgspec

from faults.publishers import BATCH_RECORDS, RECORDS

RECORD_KEYS = 3
OPEN_SECONDS = 0.05
PUBLISH = "select count(*) from treadle.publish_many($1, $2::jsonb, notify => true)"


async def main(port: int) -> None:
    sql = await asyncpg.connect(f"postgresql://treadle@127.0.0.1:{port}/treadle?sslmode=disable")
    for number in range(1_000_000):
        values = [f"doomed-{os.getpid()}:{BATCH_RECORDS * number + n:06}" for n in range(BATCH_RECORDS)]
        records = [{"value": value, "key": f"doomed-{os.getpid()}-{n % RECORD_KEYS}"} for n, value in enumerate(values)]
        async with sql.transaction():
            await sql.fetchval(PUBLISH, RECORDS, msgspec.json.encode(records).decode())
            if number % 2:
                await asyncio.sleep(OPEN_SECONDS)
        sys.stdout.write("\n".join(values) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
