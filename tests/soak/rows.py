"""The rows of the table: each a way in which a disk or a process ends, under load, and the count of what that cost.

Each function does its harm so many times to one kind of server and returns a `Row`. A server that breaks its promise on
purpose (see `bite` of each) must lose mail in the same row, or the row tells nothing.
"""
import os
import random
import tempfile
import time

from disk import Disk, PLACE
from hop import Hop
from load import Load, Mailboxes, Session, message
from servers import faults

LOCAL = [["ann@home.example"], ["ann@home.example"], ["bob@home.example"], ["ann@home.example", "bob@home.example"]]
DELIVERED_WITHIN = 30
# More than any run relays.
MESSAGES = 1 << 24


class Row:
    """What happened in all rounds of a row."""

    def __init__(self):
        self.acknowledged = self.lost = self.torn = self.doubled = self.waiting = self.panics = self.late = 0
        self.recovery = self.drained = 0.0
        self.notes = []

    def keeps_the_promise(self):
        return self.acknowledged > 0 and not (self.lost or self.torn or self.doubled or self.waiting or self.panics)


class World:
    """Where one row is played: a folder, the server's class, and the library that breaks its promise, if it shall."""

    def __init__(self, server, library, is_broken):
        self.kind, self.library, self.is_broken = server, library, is_broken
        self.folder = tempfile.TemporaryDirectory(prefix="postrider-soak-")
        # Some servers have accounts of their own.
        os.chmod(self.folder.name, 0o755)
        self.row, self.rounds, self.disks, self.servers = Row(), 0, [], []

    def disk(self, name, **options):
        disk = Disk(os.path.join(self.folder.name, f"{name}{self.rounds}"), **options)
        self.disks.append(disk)
        return disk

    def server(self, disk, mail_disk=None, bite="drop-syncs", fault=None, relay_port=None, broken=None,
               **settings):
        """Started for the first time; what is on its disks by then is safe."""
        self.rounds += 1
        mail_disk = mail_disk or disk
        server = self.kind(os.path.join(self.folder.name, f"work{self.rounds}"), disk.path, mail_disk.path,
                           relay_port)
        self.servers.append(server)
        mode = bite if self.is_broken else fault
        if mode:
            server.faults = faults(self.library, broken or [disk.path, mail_disk.path], mode=mode, **settings)
        server.start()
        self.send_first(server)
        for each in {disk, mail_disk}:
            each.sync()
        return server

    def send_first(self, server):
        # So that the folders of the mailboxes are there.
        session = Session(server.port)
        session.send(message("m-first"), LOCAL[-1])
        session.close()
        boxes = Mailboxes(server.mail)
        wait(lambda: len(boxes.count()[0]) == 2, DELIVERED_WITHIN)

    def settle(self, server, load):
        """After the last start of a server that breaks nothing any more: waits for the mail, and counts."""
        begun, boxes = time.monotonic(), Mailboxes(server.mail)
        acknowledged = load.acknowledged[:load.owed]
        owed = {(name, address) for name, to in acknowledged for address in to}
        most = self.patience()
        last, count = begun, -1
        while time.monotonic() - begun < DELIVERED_WITHIN and time.monotonic() - last < most:
            found = boxes.count()[0]
            if owed <= found.keys():
                break
            if len(found) != count:
                last, count = time.monotonic(), len(found)
            time.sleep(0.1)
        if not owed <= boxes.count()[0].keys():
            # What still moves can't be counted.
            server.kill()
        found, torn = boxes.count()
        missing = owed - found.keys()
        queued = octets_below(server.queue, server.mail) if missing else b""
        waiting = sum(name.encode() in queued for name, _ in missing)
        row = self.row
        row.acknowledged += len(acknowledged)
        row.late += sum((name, to[0]) not in found for name, to in load.acknowledged[len(acknowledged):])
        row.waiting += waiting
        row.lost += len(missing) - waiting
        row.torn += len(torn)
        row.doubled += sum(count - 1 for count in found.values())
        row.drained = max(row.drained, time.monotonic() - begun)
        row.panics += server.panics()

    def patience(self):
        """How long nothing may come until nothing more is expected: less of one that need not keep the promise."""
        return 2 if self.is_broken else DELIVERED_WITHIN if self.kind.is_ours else 8

    def start_again(self, server):
        server.faults = {}
        self.row.recovery = max(self.row.recovery, server.start())

    def end(self, server, *disks):
        if server.process:
            server.kill()
        self.servers.remove(server)
        for disk in disks:
            disk.remove()
            self.disks.remove(disk)

    def close(self):
        # Only after an error is anything left.
        for server in self.servers:
            if server.process:
                server.kill()
        for disk in self.disks:
            disk.remove()
        self.folder.cleanup()


def wait(holds, seconds):
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.1)


def octets_below(folder, without):
    found = []
    for place, _, files in os.walk(folder):
        if place == without or place.startswith(without + "/") or place.endswith("/tmp"):
            continue
        for name in files:
            path = os.path.join(place, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    found.append(file.read())
    return b"\n".join(found)


def some_time(most=1.5):
    time.sleep(random.uniform(0.3, most))


def cut_and_count(world, server, load, cut, others=()):
    """The power of one disk fails under load; then the server ends, and starts again with all of its disks."""
    if os.path.commonpath([cut.path, server.queue]) == cut.path:
        # While a filesystem of Linux is shut down, a sync that is under way may return without an error. Nobody reads a
        # 250 after the power has gone: those read later are counted apart.
        load.owed = len(load.acknowledged)
    cut.cut()
    time.sleep(random.uniform(0, 0.3))
    load.ended = True
    server.kill()
    load.stop()
    cut.come_back()
    world.start_again(server)
    world.settle(server, load)
    world.end(server, cut, *others)


def power_cut(world, times, filesystem="ext4"):
    for number in range(times):
        disk = world.disk("disk", filesystem=filesystem)
        server = world.server(disk)
        # A message that comes alone is made durable in another way than many.
        load = Load(server.port, LOCAL, clients=1 if number % 4 == 3 else 12)
        some_time()
        cut_and_count(world, server, load, disk)


def power_cut_xfs(world, times):
    power_cut(world, times, "xfs")


def spool_disk_cut(world, times):
    two_disks(world, times, 0)


def mail_disk_cut(world, times):
    two_disks(world, times, 1)


def two_disks(world, times, which):
    """Queue and mailboxes are on two disks, and one of them loses its power."""
    for _ in range(times):
        disks = [world.disk("spool"), world.disk("mail")]
        server = world.server(*disks, broken=[disks[which].path])
        if which == 0:
            # So that mail waits in the spool: what was delivered can't be lost with it.
            disks[1].slow_down(100)
        load = Load(server.port, LOCAL)
        some_time()
        disks[1].slow_down(0)
        cut_and_count(world, server, load, disks[which], [disks[1 - which]])


def killed(world, times):
    """`kill -9` again and again; so many on one disk that old and new mail are in the queue."""
    for begun in range(0, times, 20):
        disk = world.disk("disk", megabytes=4096)
        server = world.server(disk, bite="late-renames")
        load = Load(server.port, LOCAL)
        for _ in range(min(20, times - begun)):
            some_time(1.0)
            server.kill()
            world.row.recovery = max(world.row.recovery, server.start())
        some_time()
        load.ended = True
        server.kill()
        load.stop()
        world.start_again(server)
        world.settle(server, load)
        world.end(server, disk)


def killed_relaying(world, times):
    """The same while all mail goes to another host. What was under way at a kill may come there again."""
    hop = Hop(delay=0.005)
    disk = world.disk("disk", megabytes=4096)
    # In memory: what waits for a disk here would keep the server from acting on the answer.
    seen = tempfile.NamedTemporaryFile(dir=PLACE)
    seen.truncate(MESSAGES)
    fault = "note-answers" if world.kind.is_ours else None
    server = world.server(disk, bite="late-renames", fault=fault, trace=seen.name, relay_port=hop.port)
    load, kills = Load(server.port, [["dan@far.example"]]), []
    for _ in range(times):
        some_time(1.0)
        kills.append(server.kill())
        world.row.recovery = max(world.row.recovery, server.start())
    load.ended = True
    kills.append(server.kill())
    load.stop()
    world.start_again(server)
    count_relayed(world, server, load, (hop, kills, seen))
    world.end(server, disk)
    hop.shutdown()
    seen.close()


def count_relayed(world, server, load, relayed):
    (hop, kills, seen), begun, row = relayed, time.monotonic(), world.row
    owed = {name for name, _ in load.acknowledged}

    def came():
        return {taken.name for taken in list(hop.taken)}

    # The hop may be the slower one: it has as long as anything comes.
    last, count = begun, -1
    while time.monotonic() - last < world.patience() and not owed <= came():
        if len(hop.taken) != count:
            last, count = time.monotonic(), len(hop.taken)
        time.sleep(0.1)
    row.drained = time.monotonic() - begun
    time.sleep(0.5)
    missing = owed - came()
    queued = octets_below(server.queue, server.mail) if missing else b""
    row.waiting = sum(name.encode() in queued for name in missing)
    row.acknowledged, row.lost, row.panics = len(owed), len(missing) - row.waiting, server.panics()
    row.torn = sum(not taken.whole for taken in hop.taken)
    again = [(taken, kill_after(taken, kills)) for copies in by_name(hop.taken) for taken in copies[:-1]]
    at_each = [sum(kill == each for _, kill in again) for each in kills]
    # Each thread has one message under way; what came again without a kill after it has no excuse.
    row.doubled = sum(max(0, count - server.threads) for count in at_each) + sum(kill is None for _, kill in again)
    numbers = {number for number, octet in enumerate(seen.read()) if octet}
    if not world.kind.is_ours:
        return row.notes.append(f"came again: {len(again)}, {max(at_each)} at one kill")
    if not world.is_broken and not numbers:
        raise RuntimeError("no answer was noted")
    late = [kill[0] - taken.answered for taken, kill in again if kill and taken.number in numbers]
    row.notes.append(f"came again: {len(again) - len(late)} whose answer the server had not got, {len(late)} whose it had"
                     f", {max(late, default=0) * 1000:.1f} ms at most before the kill, {max(at_each)} at one kill")


def by_name(taken):
    names = {}
    for each in taken:
        names.setdefault(each.name, []).append(each)
    return names.values()


def kill_after(taken, kills):
    """When the server was killed and when it was gone, of the kill that may have kept it from writing this down."""
    return next((kill for kill in kills if kill[1] >= taken.came), None)


def failing_sync(world, times):
    """Each fifth sync fails, or, where the server is to be broken, is called good; then a power cut."""
    for number in range(times):
        disk = world.disk("disk")
        server = world.server(disk, bite="forget-syncs", fault="fail-syncs", at=5)
        # Of many that share a sync, the next one brings what the last has forgotten; of one client that alone sends, not.
        load = Load(server.port, LOCAL, clients=12 if number % 2 else 1)
        some_time()
        cut_and_count(world, server, load, disk)


def until_taken(server):
    """Seconds until a message is taken again."""
    begun = time.monotonic()
    while True:
        try:
            session = Session(server.port)
            session.send(message("m-again"), LOCAL[0])
            session.close()
            return time.monotonic() - begun
        except (OSError, ValueError):
            if time.monotonic() - begun > DELIVERED_WITHIN:
                return float("inf")
            time.sleep(0.02)


def ran_out(world, times, fill, **options):
    """Something runs out on the disk under load and is there again, without a restart; then a power cut."""
    for _ in range(times):
        disk = world.disk("disk", **options)
        server = world.server(disk, bite="swallow")
        load = Load(server.port, LOCAL)
        some_time(0.6)
        refused = load.refusals
        give_back = fill(disk, load)
        some_time(1.0)
        if load.refusals == refused and not world.is_broken:
            world.row.notes.append("nothing was refused")
        give_back()
        load.pause()
        world.row.recovery = max(world.row.recovery, until_taken(server))
        load.go_on()
        cut_and_count(world, server, load, disk)


def no_space(world, times):
    def fill(disk, _):
        path = os.path.join(disk.path, "fill")
        with open(path, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 65536)
            except OSError:
                pass
        return lambda: os.unlink(path)

    ran_out(world, times, fill, megabytes=64)


def no_inodes(world, times):
    def fill(disk, _):
        folder = os.path.join(disk.path, "fill")
        made = []
        try:
            os.mkdir(folder)
            while True:
                path = os.path.join(folder, str(len(made)))
                open(path, "x").close()
                made.append(path)
        except OSError:
            return lambda: [os.unlink(path) for path in made]

    ran_out(world, times, fill, megabytes=256, inodes=16384)


def read_only(world, times):
    def remount(disk, load):
        load.pause()
        disk.read_only(True)
        load.go_on()
        return lambda: disk.read_only(False)

    ran_out(world, times, remount)


def slow_disk(world, times):
    """The disk does forty writes a second; then a power cut."""
    for _ in range(times):
        disk = world.disk("disk")
        server = world.server(disk)
        if not disk.slow_down(40):
            world.row.notes.append("the disk could not be slowed down: no blkio.throttle in the root group")
        load = Load(server.port, LOCAL)
        time.sleep(2)
        some_time()
        disk.slow_down(0)
        cut_and_count(world, server, load, disk)


# The name of each, what does it, and how it is described.
ROWS = {
    "kill": (killed, "kill -9"),
    "kill-relay": (killed_relaying, "kill -9, relaying"),
    "cut-ext4": (power_cut, "power cut, ext4"),
    "cut-xfs": (power_cut_xfs, "power cut, xfs"),
    "cut-spool": (spool_disk_cut, "two disks, the spool's cut"),
    "cut-mail": (mail_disk_cut, "two disks, the mailboxes' cut"),
    "failing-sync": (failing_sync, "each fifth sync fails, then a cut"),
    "no-space": (no_space, "no space, then a cut"),
    "no-inodes": (no_inodes, "no inodes, then a cut"),
    "read-only": (read_only, "read-only, then a cut"),
    "slow": (slow_disk, "40 writes a second, then a cut"),
}
