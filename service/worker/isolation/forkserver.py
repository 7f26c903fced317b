"""The process that forks the agents' own processes: a single thread that has the agents imported and runs none of them.

It belongs to one worker and ends with it. For each child it is sent two sockets: the child's channel, and a leash. On
the leash it says `+` when the child is there, and four bytes when it is not any more: its exit code, or the negative
number of the signal that ended it. When the other end of the leash closes, by intent or by the worker's death, it kills
the child and whatever that has started.
"""

import contextlib
import gc
import os
import pickle
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable

from service import logs
from service.agents import registry
from service.worker.isolation import child
from service.worker.isolation.ipc import EXIT_CODE, READY


def main(control: int) -> None:
    """Serve the worker at the other end of this socket, which first sends its settings."""
    for number in (signal.SIGINT, signal.SIGTERM):  # children drain with their worker; and a handler, unlike SIG_IGN,
        signal.signal(number, _note)  # is not passed on to the programs that agents start
    worker = socket.socket(fileno=control)
    with worker.makefile("rb") as file:
        settings = pickle.load(file)
    logs.configure(settings.log_level, settings.log_format)
    agents = registry.load(settings)
    gc.collect()
    gc.freeze()  # what is here now is shared by all children, and not to be touched by their looking for garbage
    worker.sendall(READY)
    _Nursery(worker, lambda channel: child.main(channel, settings, agents)).serve()
    os._exit(0)  # threads that an agent's module may have started keep nobody here


class _Nursery:
    """`live` is what a child does with its channel; it does not return."""

    def __init__(self, worker: socket.socket, live: Callable[[socket.socket], object]) -> None:
        self._worker = worker
        self._live = live
        self._leashes: dict[int, socket.socket] = {}  # by the child's pid
        self._bell, self._ringer = socket.socketpair()  # rung by signals
        for bell in (self._bell, self._ringer):
            bell.setblocking(False)
        signal.signal(signal.SIGCHLD, _note)
        signal.set_wakeup_fd(self._ringer.fileno(), warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._worker, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until the worker is gone."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._bell:
                    self._bell.recv(4096)
                    self._bury()
                elif key.fileobj is self._worker:
                    if not self._fork():
                        return self._end()
                elif self._leashes.get(key.data) is key.fileobj:
                    self._selector.unregister(key.fileobj)
                    _kill(key.data)

    def _fork(self) -> bool:
        """Take the next child's sockets and fork it; False at the end."""
        request, files, _, _ = socket.recv_fds(self._worker, 1, 2)
        if not request:
            return False
        sockets = [socket.socket(fileno=file) for file in files]
        try:
            channel, leash = sockets
            pid = os.fork()
        except (OSError, ValueError):  # no process, or no room for the files: the worker learns it from the leash
            traceback.print_exc()
            for one in sockets:
                one.close()
            return True
        if pid == 0:
            self._become_child(channel, leash)
        channel.close()
        with contextlib.suppress(OSError):  # it was quicker
            os.setpgid(pid, pid)
        self._leashes[pid] = leash
        self._selector.register(leash, selectors.EVENT_READ, pid)
        _tell(leash, READY)
        return True

    def _become_child(self, channel: socket.socket, leash: socket.socket) -> None:
        """In the child: leave behind what is the nursery's, and live in a process group of its own."""
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for other in (self._worker, self._bell, self._ringer, leash, *self._leashes.values()):
                other.close()
            self._live(channel)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)

    def _end(self) -> None:
        for pid in self._leashes:
            _kill(pid)
        for pid in self._leashes:
            os.waitpid(pid, 0)

    def _bury(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if leash := self._leashes.pop(pid, None):
                    _kill(pid)  # what it has started and left behind
                    _tell(leash, EXIT_CODE.pack(os.waitstatus_to_exitcode(status)))
                    with contextlib.suppress(KeyError):  # its other end is closed
                        self._selector.unregister(leash)
                    leash.close()


def _note(*_: object) -> None:
    """A signal was noted: the bell rings."""


def _kill(pid: int) -> None:
    """A child and its group. Its pid is nobody else's before it is buried, and just after."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left
        os.killpg(pid, signal.SIGKILL)


def _tell(leash: socket.socket, what: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody asks any more
        leash.sendall(what)
