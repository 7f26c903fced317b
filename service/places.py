"""Places: at most so many users at once for each key, such as a tenant or an address."""

import asyncio


class _Room:
    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.users = 0  # those that wait as well


class Places:
    def __init__(self, most: int) -> None:
        self._most = most
        self._rooms: dict[str, _Room] = {}

    async def enter(self, key: str) -> None:
        """Wait for a place; `leave` gives it back."""
        room = self._rooms.setdefault(key, _Room(self._most))
        room.users += 1
        try:
            await room.places.acquire()
        except BaseException:
            self._forget(key, room)
            raise

    def is_crowded(self, key: str) -> bool:
        """Whether as many wait for a place as there are."""
        room = self._rooms.get(key)
        return room is not None and room.users >= 2 * self._most

    def leave(self, key: str) -> None:
        room = self._rooms[key]
        room.places.release()
        self._forget(key, room)

    def _forget(self, key: str, room: _Room) -> None:
        room.users -= 1
        if not room.users:
            del self._rooms[key]
