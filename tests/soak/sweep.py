#!/usr/bin/env python3
"""Every failing call: the n-th open, write, sync, rename, unlink and mkdir on spool and mailboxes fails with EIO,
ENOSPC or EDQUOT, or is the last before a kill, for all n of four transactions: a delivery by rename, one by copy, a
relay and a bounce. In each of these runs:

  a 250 is followed by the delivery in the end, once (only at the next hop a kill may double it);
  what was refused is delivered to nobody; no file in new/ is torn, none is in failed/; nothing panics;
  and a new message is taken within five seconds.

A server whose n-th call is not done and called good must fail, to show that the sweep bites. Prints the figures: calls
× errors × outcomes. Exits with 1 if a promise was broken or the sweep did not bite, 77 where it can't be played.
"""
import argparse
import collections
import concurrent.futures
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from hop import Hop
from load import Session, message
from servers import LOCKED, compile_faults, faults

KINDS = ("open", "write", "sync", "rename", "unlink", "mkdir")
ACTIONS = ("EIO", "ENOSPC", "EDQUOT", "last")
MAILBOXES = ("ann", "bob", "postmaster")
# The name of each message, who sends it and to whom: by rename, by copy, to the next hop, and back to its sender.
MESSAGES = {
    "m-rename": ("s@far.example", ["ann@home.example"]),
    "m-copy": ("s@far.example", ["ann@home.example", "bob@home.example"]),
    "m-relay": ("s@far.example", ["dan@far.example"]),
    "m-bounce": ("bob@home.example", ["gone@far.example"]),
}
SERVICE_WITHIN = 5
# An entry that met an error is tried again after a minute.
DELIVERED_WITHIN = 100


class Run:
    """One server, of which one call is told to fail."""

    def __init__(self, sweep, kind, number, action):
        self.sweep, self.title = sweep, f"{kind} {number} {action}"
        mode = {"last": "last", "lie": "lie", "count": "count"}.get(action, "error")
        self.fault = {"mode": mode, "call": kind, "at": number, "error": getattr(errno, action, 0)}
        self.folder = tempfile.mkdtemp(prefix="run-", dir=sweep.folder)
        shutil.copytree(sweep.template, self.folder, dirs_exist_ok=True)
        self.spool, self.trace = os.path.join(self.folder, "spool"), f"{self.folder}.trace"
        self.mark = f"{kind}-{number}-{action}".lower()
        self.was_killed, self.wrong, self.outcome, self.unanswered = False, [], "never came", 0
        self.seconds = 0.0

    def play(self):
        try:
            self.start({**faults(self.sweep.library, [self.spool], **self.fault), "FAULT_TRACE": self.trace})
            self.replies = {name: self.send(name) for name in MESSAGES}
            self.take_another()
            if self.fault["mode"] == "lie":
                # It shall be seen, and not waited for.
                time.sleep(3)
                self.wrong += self.look()
                return self
            # What is wrong for longer than this is wrong.
            deadline = time.monotonic() + DELIVERED_WITHIN
            restart = time.monotonic() + self.sweep.patience
            while (wrong := self.look()) and time.monotonic() < deadline:
                if time.monotonic() > restart:
                    restart = self.start_again()
                time.sleep(0.05)
            self.wrong += wrong
            if " panicked " in self.log():
                self.wrong.append("it panicked")
            self.outcome = self.tell_outcome()
        except (OSError, RuntimeError) as error:
            self.wrong.append(str(error))
        finally:
            self.server.kill()
            self.server.wait()
            if not self.wrong or not self.sweep.keeps:
                shutil.rmtree(self.folder, ignore_errors=True)
        return self

    def start(self, environment):
        command = [self.sweep.binary, "serve", "--config", f"{self.folder}/postrider.toml"]
        said_before, deadline = len(self.log()), time.monotonic() + 30
        self.server = subprocess.Popen(command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
        while not (listening := re.search(r"protocol=smtp \S*address=\S+:(\d+)", self.log()[said_before:])):
            if time.monotonic() > deadline or self.server.poll() is not None:
                raise RuntimeError("it did not start")
            time.sleep(0.005)
        self.port = int(listening[1])

    def start_if_killed(self):
        if self.server.poll() is None:
            return
        if self.was_killed or self.server.returncode != -signal.SIGKILL or self.fault["mode"] != "last":
            raise RuntimeError(f"it ended with {self.server.returncode}")
        self.was_killed = True
        self.start({})

    def start_again(self):
        """Somebody does not wait for what an error has put off. Returns when that is done next: never."""
        self.server.terminate()
        self.server.wait()
        self.start({})
        return float("inf")

    def log(self):
        try:
            with open(f"{self.folder}/mail.log", errors="replace") as log:
                return log.read()
        except FileNotFoundError:
            return ""

    def send(self, name):
        """The last reply to a message; empty if there was none."""
        sender, to = MESSAGES.get(name, MESSAGES["m-rename"])
        try:
            session = Session(self.port, 10)
            try:
                session.send(message(f"{name}-{self.mark}", 200), to, sender)
                return "250"
            finally:
                session.close()
        except (OSError, ValueError) as error:
            return str(error) if re.match(r"[45]\d\d ", str(error)) else ""

    def take_another(self):
        begun = time.monotonic()
        while True:
            self.start_if_killed()
            self.replies["m-after"] = self.send("m-after")
            seconds = time.monotonic() - begun
            if seconds > SERVICE_WITHIN:
                raise RuntimeError(f"no service within {SERVICE_WITHIN} s: {self.replies['m-after']}")
            self.seconds = seconds
            if self.replies["m-after"] == "250":
                return
            self.unanswered += not self.replies["m-after"]
            time.sleep(0.05)

    def look(self):
        """What is not yet, or not at all, as it was promised."""
        self.start_if_killed()
        found, wrong = collections.Counter(), []
        for box in MAILBOXES:
            folder = f"{self.spool}/mail/home.example/{box}/new"
            for file in os.listdir(folder) if os.path.isdir(folder) else []:
                name = whole_message(os.path.join(folder, file))
                found[name, box] += 1
                if not name:
                    wrong.append(f"{box}/new/{file} is torn")
        for name in self.replies:
            found[name, "hop"] = len(self.sweep.hop.of(f"{name}-{self.mark}"))
        for name, reply in self.replies.items():
            for place in PLACES[name]:
                wrong += self.judge(name, reply, place, found[name, place])
        wrong += [f"{path} is left" for path in ("queue", "failed") if os.listdir(f"{self.spool}/{path}")]
        return wrong

    def judge(self, name, reply, place, times):
        least = 1 if reply == "250" else 0
        # Killed before it could answer, it may have taken the message or not.
        most = 0 if reply[:1] in ("4", "5") else 2 if place == "hop" and self.was_killed else 1
        most += self.unanswered if name == "m-after" else 0
        said = f"{name}, answered {reply or 'not at all'}, is {times} times at {place}"
        return [] if least <= times <= most else [said]

    def tell_outcome(self):
        if self.was_killed:
            return "killed"
        if any(reply[:1] in ("4", "5") for reply in self.replies.values()):
            return "refused"
        return "tried again" if " deferred " in self.log() or "error" in self.log() else "no matter"

    def calls(self):
        """How many calls of each kind there were."""
        with open(self.trace) as trace:
            return collections.Counter(line.split(" ")[0] for line in trace)


PLACES = {"m-rename": ["ann"], "m-after": ["ann"], "m-copy": ["ann", "bob"], "m-relay": ["hop"], "m-bounce": ["bob"]}


def whole_message(path):
    """Which message is in a file, if all of it is there."""
    with open(path, "rb") as file:
        text = file.read().decode()
    name = re.search(r"^Subject: ((m-[a-z]+)-\S+)", text, re.M)
    boundary = re.search(r'boundary="?([^"\s;]+)', text)
    # A report ends as any multipart does.
    last = f"--{boundary[1]}--" if boundary else f"END-{name[1]}" if name else ""
    return name[2] if name and text.endswith(f"\n{last}\r\n") else None


class Sweep:
    """All the runs, and what they share."""

    def __init__(self, binary, folder, patience, keeps=False):
        self.binary, self.folder, self.keeps = os.path.abspath(binary), folder, keeps
        # Seconds until a server is started again that has not done all it owes; it may take a minute by itself.
        self.patience = patience
        self.library, self.hop = compile_faults(folder), Hop()
        self.template = os.path.join(folder, "template")
        self.prepare()

    def prepare(self):
        """A server that was started once: its folders and its certificate are there."""
        os.mkdir(self.template)
        files = {
            "users": "".join(f"{box}@home.example:{LOCKED}\n" for box in MAILBOXES),
            "aliases": "",
            "postrider.toml": f"""
hostname = "mail.home.example"
local_domains = ["home.example"]
spool = "spool"
users = "users"
aliases = "aliases"
log = "mail.log"
[listen]
smtp = ["127.0.0.1:0"]
pop3 = []
[delivery]
threads = 1
retry_min = "1s"
retry_max = "1s"
[relay]
domains = {{ "far.example" = "127.0.0.1:{self.hop.port}" }}
[limits]
free_space = "1MiB"
""",
        }
        for name, text in files.items():
            with open(os.path.join(self.template, name), "w") as file:
                file.write(text)
        first = Run(self, "open", 0, "count")
        first.start({})
        first.server.terminate()
        first.server.wait()
        os.unlink(f"{first.folder}/mail.log")
        shutil.rmtree(self.template)
        shutil.copytree(first.folder, self.template)

    def count(self):
        """How many calls of each kind the transactions make; their number differs a little from run to run."""
        calls = collections.Counter()
        for number in range(3):
            run = Run(self, "open", number, "count").play()
            if run.wrong:
                raise RuntimeError(f"without any fault: {run.wrong}")
            calls |= run.calls()
        return calls

    def play(self, wanted, workers):
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda each: Run(self, *each).play(), wanted))


def chosen(calls, step):
    """Each call by each action, or of those each `step`-th."""
    every = [(kind, number, action) for kind in KINDS for number in range(1, calls[kind] + 1) for action in ACTIONS]
    return every[::step]


def report(calls, runs):
    """The figures: a line for each kind of call and action."""
    outcomes = ["refused", "tried again", "no matter", "killed", "never came"]
    line = "{:<8} {:>5} {:<8} {:>5}" + " {:>11}" * len(outcomes) + " {:>6}"
    print(line.format("call", "calls", "error", "runs", *outcomes, "wrong"))
    for kind in KINDS:
        for action in ACTIONS:
            of = [run for run in runs if run.title.startswith(f"{kind} ") and run.title.endswith(f" {action}")]
            counts = [sum(run.outcome == outcome for run in of) for outcome in outcomes]
            if of:
                print(line.format(kind, calls[kind], action, len(of), *counts, sum(bool(run.wrong) for run in of)))
    for run in runs:
        for wrong in run.wrong:
            print(f"{run.title}: {wrong}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True, help="the postrider that is tested")
    parser.add_argument("--step", type=int, default=1, help="play only each so many-th of the runs")
    parser.add_argument("--patience", type=float, default=float("inf"), help="seconds until a server is started again")
    parser.add_argument("--only", help="the runs whose title begins so, such as `rename 3`")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--keep", action="store_true", help="leave the folders of runs that went wrong")
    options = parser.parse_args()
    if not shutil.which("cc"):
        print("there is no C compiler")
        return 77
    begun, folder = time.monotonic(), tempfile.mkdtemp(prefix="postrider-sweep-")
    try:
        sweep = Sweep(options.binary, folder, options.patience, options.keep)
        calls = sweep.count()
        lies = sweep.play([("rename", number, "lie") for number in range(1, 5)], options.workers)
        caught = sum(bool(run.wrong) for run in lies)
        wanted = chosen(calls, options.step)
        if options.only:
            wanted = [each for each in wanted if " ".join(map(str, each)).startswith(options.only)]
        runs = sweep.play(wanted, options.workers)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    report(calls, runs)
    wrong = sum(bool(run.wrong) for run in runs)
    print(f"bites: {'yes' if caught else 'NO'}, {caught} of {len(lies)} renames that were called good and not done")
    print(f"service again within {max(run.seconds for run in runs):.2f} s")
    print(f"{len(runs)} runs, {wrong} against a promise, {time.monotonic() - begun:.0f} s")
    return 1 if wrong or not caught else 0


if __name__ == "__main__":
    sys.exit(main())
