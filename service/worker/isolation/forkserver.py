"""The process that forks the agents' own processes: a single thread that has imported the agents and runs none of them.

It belongs to one worker and ends with it. For each child the worker sends it two sockets: the child's channel, and a
leash. On the leash it writes `+` when the child is forked, and four bytes when the child has ended: its exit code, or
the negative number of the signal that ended it. When the worker closes its end of the leash, or dies, the fork server
kills the child and every process in the child's group.
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

from service import logs
from service.agents import registry
from service.agents.registry import Registry
from service.config import Settings
from service.worker.isolation import child
from service.worker.isolation.ipc import EXIT_CODE, READY_BYTE


def main(control: int) -> None:
    """Serve the worker at the other end of this socket, which first sends its settings."""
    # Ignored: children drain with their worker. A handler, unlike SIG_IGN, is not inherited by programs of the agents.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)
    worker = socket.socket(fileno=control)
    with worker.makefile("rb") as file:
        settings = pickle.load(file)
    logs.configure(settings.log_level, settings.log_format)
    agents = registry.load(settings)
    gc.collect()
    gc.freeze()  # children share these objects; their garbage collection must not touch and so copy them
    worker.sendall(READY_BYTE)
    _ForkServer(worker, settings, agents).serve()
    os._exit(0)  # without waiting for threads that an agent's module may have started


class _ForkServer:
    def __init__(self, worker: socket.socket, settings: Settings, agents: Registry) -> None:
        self._worker = worker
        self._settings = settings
        self._agents = agents
        self._leashes: dict[int, socket.socket] = {}  # by the child's pid
        self._signals, self._signals_in = socket.socketpair()  # readable after a signal
        for end in (self._signals, self._signals_in):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(self._signals_in.fileno(), warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._worker, selectors.EVENT_READ)
        self._selector.register(self._signals, selectors.EVENT_READ)

    def serve(self) -> None:
        """Fork children until the worker closes its end or dies."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._signals:
                    self._signals.recv(4096)
                    self._reap_children()
                elif key.fileobj is self._worker:
                    if not self._fork():
                        return self._kill_all()
                elif self._leashes.get(key.data) is key.fileobj:
                    self._selector.unregister(key.fileobj)
                    _kill(key.data)

    def _fork(self) -> bool:
        """Receive the next child's sockets and fork it; False if the worker has closed its end."""
        request, files, _, _ = socket.recv_fds(self._worker, 1, 2)
        if not request:
            return False
        sockets = [socket.socket(fileno=file) for file in files]
        try:
            channel, leash = sockets
            pid = os.fork()
        except (OSError, ValueError):  # too many processes or files: the closed leash tells the worker
            traceback.print_exc()
            for end in sockets:
                end.close()
            return True
        if pid == 0:
            self._become_child(channel, leash)
        channel.close()
        with contextlib.suppress(OSError):  # the child has already done it
            os.setpgid(pid, pid)
        self._leashes[pid] = leash
        self._selector.register(leash, selectors.EVENT_READ, pid)
        _tell(leash, READY_BYTE)
        return True

    def _become_child(self, channel: socket.socket, leash: socket.socket) -> None:
        """In the child: close the fork server's sockets, and run the agent in a process group of its own."""
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for other in (self._worker, self._signals, self._signals_in, leash, *self._leashes.values()):
                other.close()
            child.main(channel, self._settings, self._agents)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)

    def _kill_all(self) -> None:
        for pid in self._leashes:
            _kill(pid)
        for pid in self._leashes:
            os.waitpid(pid, 0)

    def _reap_children(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if leash := self._leashes.pop(pid, None):
                    _kill(pid)  # processes that it started and that still run
                    _tell(leash, EXIT_CODE.pack(os.waitstatus_to_exitcode(status)))
                    with contextlib.suppress(KeyError):  # unregistered when the worker closed its end
                        self._selector.unregister(leash)
                    leash.close()


def _ignore(*_: object) -> None:
    """The wakeup socket has already taken note of the signal."""


def _kill(pid: int) -> None:
    """Kill a child and its group. The kernel does not reuse the pid before the child is reaped, nor right after."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is empty
        os.killpg(pid, signal.SIGKILL)


def _tell(leash: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the worker has closed its end
        leash.sendall(data)
