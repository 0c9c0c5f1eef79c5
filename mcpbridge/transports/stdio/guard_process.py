"""The guard's own program: parent of every stdio child, so that nothing the bridge started can outlive it.

It runs alone (``python -I -S``, source on stdin, nothing of mcpbridge importable) and stays near 11 MB. The bridge holds the
other end of a socket. A child is forked here and gets its pipes from the bridge, so no byte of MCP passes through.

    frame             u32 length, marshal of a tuple
    bridge -> guard   ("spawn", token, path, argv, env, cwd, mark) + 4 descriptors: stdin, stdout, stderr, failure
                      ("end", token, grace)
    guard -> bridge   ("pid", token, pid, start)  ("failed", token, errno)
                      ("exit", token, wait status)  ("gone", token)

As a subreaper (Linux) the guard inherits every orphan below it: a double fork or a new session does not get away, and
every one is reaped, so there are no zombies either. Orphans are told apart by session, by having been seen before, or by
the mark in their environment. Elsewhere only the child's process group is known.

Source: prctl(2) PR_SET_CHILD_SUBREAPER, proc(5) stat; architecture section 8; reliability section 3 rows 12-13.
"""

from __future__ import annotations

import _socket
import marshal
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # at run time typing alone would cost the guard a megabyte

GRACE = 1.0  # seconds between SIGTERM and SIGKILL when the bridge is gone: all is over within 2 s
SWEEP = 0.05  # seconds between looks at a family that is being killed
HOPELESS = 10.0  # seconds after which what survives SIGKILL (a stuck disk, another user) is no longer looked at all the time
MARK = "MCPBRIDGE_GUARD"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CLOSE_ON_EXEC = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)


class Process:
    """One line of /proc: who it is (pid and start time, in clock ticks since boot) and where it belongs."""

    __slots__ = ("group", "parent", "pid", "session", "start", "state")

    def __init__(self, pid: int, start: int, parent: int, group: int, session: int, state: str) -> None:
        self.pid = pid
        self.start = start
        self.parent = parent
        self.group = group
        self.session = session
        self.state = state


def read_process(pid: int) -> Process | None:
    """The process with this pid, or None when there is none. A zombie has state ``Z``."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            raw = file.read()
    except OSError:
        return None
    fields = raw[raw.rindex(b")") + 2 :].split()  # the name in brackets may hold anything
    return Process(pid, int(fields[19]), int(fields[1]), int(fields[2]), int(fields[3]), fields[0].decode())


def processes() -> list[Process]:
    """Every process there is, zombies included. Empty without /proc."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    return [process for process in map(read_process, pids) if process is not None]


def descendants(root: int, everybody: list[Process] | None = None) -> dict[int, Process]:
    """Every process below ``root``, zombies included, parents before children."""
    children: dict[int, list[Process]] = {}
    for process in processes() if everybody is None else everybody:
        children.setdefault(process.parent, []).append(process)
    found: dict[int, Process] = {}
    queue = [root]
    while queue:
        for process in children.get(queue.pop(), ()):
            if process.pid not in found:
                found[process.pid] = process
                queue.append(process.pid)
    return found


def carries(pid: int, mark: bytes) -> bool:
    """Whether the process was started with our mark in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return MARK.encode() + b"=" + mark in file.read().split(b"\0")
    except OSError:
        return False


def strike(process: Process, number: int) -> None:
    """Send a signal to exactly this process; if its pid has passed to another one, nothing happens."""
    try:
        handle = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else -1
    except OSError:
        return
    try:
        now = read_process(process.pid)
        if now is None or now.start != process.start or now.state == "Z":
            return
        if handle >= 0:
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(process.pid, number)
    except OSError:
        pass  # ended meanwhile, or runs as somebody else
    finally:
        if handle >= 0:
            os.close(handle)


def control(option: int, value: int) -> bool:
    """prctl(2) for this process. False where there is none or it refuses."""
    if sys.platform != "linux":
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


class Family:
    """A child and everything that came of it."""

    def __init__(self, token: int, pid: int, mark: bytes) -> None:
        self.token = token
        self.pid = pid
        self.mark = mark
        self.is_leader_alive = True
        self.kill_at: float | None = None  # set once the family is being ended
        self.seen: set[tuple[int, int]] = set()


class Guard:
    """The loop: orders of the bridge, deaths of children, deadlines."""

    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge
        self.families: dict[int, Family] = {}
        self.buffer = bytearray()
        self.descriptors: list[int] = []
        # With both, nothing below this process can hide from it; else only process groups are known.
        self.sees_all = control(_PR_SET_CHILD_SUBREAPER, 1) and read_process(os.getpid()) is not None

    # Orders

    def read(self) -> bool:
        """Carry out what the bridge sent. False: the bridge is gone."""
        try:
            data, ancillary, _, _ = self.bridge.recvmsg(65536, 1024, _CLOSE_ON_EXEC)
        except OSError:
            return False
        for level, kind, payload in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                size = len(payload) // 4
                self.descriptors += [int.from_bytes(payload[4 * i : 4 * i + 4], sys.byteorder) for i in range(size)]
        if not data:
            return False
        self.buffer += data
        while len(self.buffer) >= 4:
            end = 4 + int.from_bytes(self.buffer[:4], "big")
            if len(self.buffer) < end:
                break
            order = marshal.loads(bytes(self.buffer[4:end]))  # noqa: S302 (only the bridge writes here)
            del self.buffer[:end]
            if order[0] == "spawn":
                self.spawn(*order[1:])
            elif order[1] in self.families:
                self.end(self.families[order[1]], order[2])
        return True

    def tell(self, *event: Any) -> None:
        raw = marshal.dumps(event)
        try:
            self.bridge.sendall(len(raw).to_bytes(4, "big") + raw)
        except OSError:
            pass  # the bridge is gone: the next read says so

    def spawn(self, token: int, path: bytes, argv: list[bytes], env: dict[bytes, bytes], cwd: bytes, mark: bytes) -> None:
        pipes, self.descriptors = self.descriptors[:4], self.descriptors[4:]
        try:
            pid = os.fork()
        except OSError as error:
            self.tell("failed", token, error.errno)
        else:
            if pid == 0:
                become(path, argv, env | {MARK.encode(): mark}, cwd, pipes)
            self.families[token] = Family(token, pid, mark)
            process = read_process(pid)
            self.tell("pid", token, pid, process.start if process else 0)
        for descriptor in pipes:
            os.close(descriptor)

    # Ends

    def end(self, family: Family, grace: float) -> None:
        """SIGTERM now, SIGKILL after ``grace`` seconds, until nothing is left."""
        if family.kill_at is None:
            family.kill_at = time.monotonic() + grace
            self.signal(family, signal.SIGTERM)
        else:
            family.kill_at = min(family.kill_at, time.monotonic() + grace)

    def signal(self, family: Family, number: int) -> None:
        """To all members; but SIGTERM spares the other group a living member made, which it may end in its own order."""
        if not self.sees_all:
            self.signal_group(family, number)
            return
        me = os.getpid()
        for process in self.members(family):
            if number == signal.SIGKILL or process.group == family.pid or process.parent == me:
                strike(process, number)
                if number == signal.SIGTERM:
                    strike(process, signal.SIGCONT)  # a stopped process hears SIGTERM only when it goes on

    def signal_group(self, family: Family, number: int) -> None:
        try:
            os.killpg(family.pid, number)
        except OSError:
            pass

    def members(self, family: Family) -> list[Process]:
        """The processes of a family that are not yet reaped, as far as they can be told from the others below the guard."""
        return [process for process, owner in self.everybody() if owner is family]

    def everybody(self) -> list[tuple[Process, Family | None]]:
        """All below the guard with whom they belong to. What hid too well belongs to the last family there is."""
        me = os.getpid()
        last = next(iter(self.families.values())) if len(self.families) == 1 else None
        leaders = {family.pid: family for family in self.families.values()}
        owners: dict[int, Family | None] = {}
        result: list[tuple[Process, Family | None]] = []
        for process in descendants(me).values():
            if process.parent != me:
                owner = owners.get(process.parent)
            else:
                owner = leaders.get(process.pid) or leaders.get(process.session) or self.remembered(process) or last
            owners[process.pid] = owner
            if owner is not None:
                owner.seen.add((process.pid, process.start))
            result.append((process, owner))
        return result

    def remembered(self, process: Process) -> Family | None:
        for family in self.families.values():
            if (process.pid, process.start) in family.seen or carries(process.pid, family.mark):
                return family
        return None

    def is_empty(self, family: Family) -> bool:
        if family.is_leader_alive:
            return False
        if self.sees_all:
            return not self.members(family)
        try:
            os.killpg(family.pid, 0)
        except OSError:
            return True
        return False

    def reap(self) -> None:
        """Collect everything that died, ours and adopted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for family in self.families.values():
                if family.pid == pid and family.is_leader_alive:
                    family.is_leader_alive = False
                    self.tell("exit", family.token, status)

    def sweep(self, now: float) -> None:
        """Kill what is overdue, report and forget what is gone."""
        for family in [family for family in self.families.values() if family.kill_at is not None]:
            assert family.kill_at is not None
            if now >= family.kill_at:
                self.signal(family, signal.SIGKILL)
                self.reap()
            if self.is_empty(family):
                del self.families[family.token]
                self.tell("gone", family.token)
        if not self.families:
            self.end_strays()

    def end_strays(self) -> None:
        """What left its session and its environment behind before anybody looked: with no family left it belongs to none."""
        if self.sees_all:
            for process in descendants(os.getpid()).values():
                strike(process, signal.SIGKILL)

    def run(self) -> None:
        wake, poll = wake_on_death(), select.poll()
        poll.register(wake, select.POLLIN)
        poll.register(self.bridge.fileno(), select.POLLIN)
        has_bridge = True
        while has_bridge:
            ready = {descriptor for descriptor, _ in poll.poll(self.patience(time.monotonic()))}
            if wake in ready:
                os.read(wake, 4096)
            if self.bridge.fileno() in ready:
                has_bridge = self.read()
            self.reap()
            if any(family.kill_at is not None for family in self.families.values()):
                self.sweep(time.monotonic())
        self.end_all()

    def patience(self, now: float) -> float | None:
        """Milliseconds until the next look at the families that are ending; None when none is. Rarer for what will not die."""
        overdue = [now - family.kill_at for family in self.families.values() if family.kill_at is not None]
        if not overdue:
            return None
        return 1000 * (SWEEP if min(overdue) < HOPELESS else 1.0)

    def end_all(self) -> None:
        """The bridge is gone: so is everything it started, after one polite second."""
        give_up = time.monotonic() + GRACE + HOPELESS
        for family in self.families.values():
            self.end(family, GRACE)
        while time.monotonic() < give_up:
            self.reap()
            self.sweep(time.monotonic())
            if not self.families and not descendants(os.getpid()):
                return
            time.sleep(SWEEP)


def become(path: bytes, argv: list[bytes], env: dict[bytes, bytes], cwd: bytes, pipes: list[int]) -> None:
    """In the fork: turn into the child. A failure is written as its number to the fourth pipe, which an exec closes."""
    stdin, stdout, stderr, failure = pipes
    try:
        os.setsid()
        control(_PR_SET_PDEATHSIG, signal.SIGKILL)  # should guard and bridge be killed in one stroke
        for target, source in enumerate((stdin, stdout, stderr)):
            os.dup2(source, target)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # ignored signals would stay ignored in the child
        os.chdir(cwd)
        os.execve(path, argv, env)  # noqa: S606 (no shell is the point)
    except OSError as error:
        os.write(failure, str(error.errno).encode())
    finally:
        os._exit(127)


def wake_on_death() -> int:
    """A descriptor that is readable when a child died."""
    wake, alarm = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(alarm, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    return wake


def main(descriptor: int) -> None:
    """Run until the bridge is gone and everything below has ended. ``descriptor`` is our end of the socket."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # only the end of the socket ends the guard
    os.set_inheritable(descriptor, False)  # a child that held it would hide our death from the bridge
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    os.chdir("/")
    try:
        with open("/proc/self/comm", "w") as file:
            file.write("mcpbridge-guard")
    except OSError:
        pass  # a name for ps, nothing more
    Guard(_socket.socket(fileno=descriptor)).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
