#!/usr/bin/env python3
"""Breaks mail servers and prints what that cost, one line a row: `make soak`, `make soak-full`, and the short form that
`make test` runs.

A row is first played with a server that breaks its promise, to show that it bites. Exits with 1 if Postrider kept a
promise less well than it says or if a row did not bite; 77 if what was asked for can't be done on this machine.
"""
import argparse
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import disk
import rows
import servers

# How often each row is played: in a few seconds, in minutes, and in an hour. The slow ones less.
SCALES = {
    "short": dict.fromkeys(rows.ROWS, 1) | {"kill": 3, "kill-relay": 3},
    "soak": dict.fromkeys(rows.ROWS, 3) | {"kill": 40, "kill-relay": 20, "cut-ext4": 20, "cut-xfs": 10,
                                           "cut-spool": 6, "cut-mail": 6},
    "full": dict.fromkeys(rows.ROWS, 10) | {"kill": 200, "kill-relay": 100, "cut-ext4": 100, "cut-xfs": 100,
                                            "cut-spool": 30, "cut-mail": 30},
}
OTHERS_WITHOUT = {"failing-sync"}  # Their programs clear the environment that would have a sync fail.
HIDDEN = "POSTRIDER_SOAK_IS_HIDDEN"  # Set once our mounts are nobody else's.
COLUMNS = "{:<36} {:<10} {:>5} {:>7} {:>5} {:>5} {:>7} {:>7} {:>8} {:>8}  {}"
HEAD = ("row", "server", "times", "acked", "lost", "torn", "doubled", "waiting", "recover", "drained", "")


def play(name, kind, library, times, is_broken=False):
    world = rows.World(kind, library, is_broken)
    try:
        rows.ROWS[name][0](world, times)
        return world.row
    finally:
        world.close()


def show(name, server, times, row, remark):
    figures = (row.acknowledged, row.lost, row.torn, row.doubled, row.waiting)
    late = [f"{row.late} acknowledged after the cut are not there"] if row.late else []
    remark = "; ".join([remark, *late, *sorted(set(row.notes))]).strip("; ")
    seconds = (f"{row.recovery:.2f} s", f"{row.drained:.1f} s")
    print(COLUMNS.format(rows.ROWS[name][1], server, times, *figures, *seconds, remark).rstrip(), flush=True)


def bite(name, library):
    """Whether the row sees a server that breaks its promise. Its moment is a matter of chance, so it has three."""
    for _ in range(3):
        row = play(name, servers.Postrider, library, 1, is_broken=True)
        if row.lost or row.torn:
            return f"bites: yes, lost {row.lost}" + (f", torn {row.torn}" if row.torn else "")
    return "bites: NO"


def play_all(options, library):
    """Whether every row kept the promise and did bite."""
    good = True
    print(COLUMNS.format(*HEAD).rstrip())
    for server in options.servers:
        for name in options.rows:
            filesystem = "xfs" if name == "cut-xfs" else "ext4"
            if why := servers.why_not(server) or disk.why_not(filesystem):
                print(f"{rows.ROWS[name][1]:<36} skipped: {why}")
                continue
            is_ours = server == "Postrider"
            if not is_ours and name in OTHERS_WITHOUT:
                continue
            times = options.times or SCALES[options.scale][name]
            is_bitten = is_ours and not options.without_bites
            try:
                # Side by side only where the time counts more than the figures.
                with ThreadPoolExecutor(1) as beside:
                    remark = beside.submit(bite, name, library) if is_bitten else None
                    if remark and options.scale != "short":
                        remark.result()
                    row = play(name, servers.SERVERS[server], library, times)
                    remark = remark.result() if remark else ""
                show(name, server, times, row, remark)
                good &= not is_ours or row.keeps_the_promise() and "NO" not in remark
            except (OSError, RuntimeError) as error:
                print(f"{rows.ROWS[name][1]:<36} {server:<10} {error}", flush=True)
                good = good and not is_ours
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True, help="the postrider that is tested")
    parser.add_argument("--scale", choices=SCALES, default="soak")
    parser.add_argument("--servers", default="Postrider", type=lambda text: text.split(","))
    parser.add_argument("--rows", default=list(rows.ROWS), type=lambda text: text.split(","))
    parser.add_argument("--times", type=int, help="instead of those of the scale")
    parser.add_argument("--without-bites", action="store_true")
    options = parser.parse_args()
    servers.Postrider.binary = os.path.abspath(options.binary)
    if not shutil.which("cc"):
        print("there is no C compiler")
        return 77
    if os.geteuid():
        print("only root may")
        return 77
    if HIDDEN not in os.environ:
        # Whoever else makes a mount namespace meanwhile would keep our disks from being unmounted. None is made before.
        os.execvpe("unshare", ["unshare", "--mount", sys.executable, "-B", *sys.argv], {**os.environ, HIDDEN: "1"})
    if why := disk.why_not():
        print(why)
        return 77
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="postrider-soak-") as folder:
        os.chmod(folder, 0o755)
        good = play_all(options, servers.compile_faults(folder))
    print(f"{time.monotonic() - begun:.0f} s; " + ("every promise was kept" if good else "A PROMISE WAS BROKEN"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
