"""Faults by agents: messages whose agent does harm (see faults/agents.py). A fault lasts as long as its message."""

from faults.history import Fault
from faults.world import World, fault


def _poison(agent: str, about: str, *, weight: int = 2, lethal: bool = False, follow: bool = False) -> None:
    async def run(world: World, record: Fault) -> None:
        record.keys = [world.clients.send(agent, follow=follow).key]

    run.__name__, run.__doc__ = f"agent_{agent}", about
    fault(weight=weight, lethal=lethal)(run)


_poison("exits", "An agent ends its process by os._exit.", lethal=True)
_poison("leaks", "An agent takes memory until its process is killed.", weight=1, lethal=True)
_poison("blocks", "An agent blocks its worker's loop for longer than WORKER_TIMEOUT.")
_poison("holds", "An agent holds the GIL for longer than WORKER_TIMEOUT.")
_poison("deaf", "An agent ignores its cancellation and continues to emit.")
_poison("floods", "An agent emits fifty megabytes.", weight=1, follow=True)
_poison("raises", "An agent raises an exception that cannot be pickled.", follow=True)
