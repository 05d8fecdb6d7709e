"""Clients that send under all circumstances, and the count of what became of it.

Every message has a name of its own near its top and again as its last line, so that one that is lost, torn or doubled
can be told. A message is owed from the moment its 250 was read.
"""
import os
import re
import socket
import threading
import time

BOXES = {"ann@home.example": "home.example/ann", "bob@home.example": "home.example/bob"}
NAME = re.compile(rb"^Subject: (m-[0-9a-z-]+)\r?$", re.M)


def message(name, octets=3000):
    lines = ("y" * 70 + "\r\n") * (octets // 72)
    return f"From: <s@far.example>\r\nSubject: {name}\r\n\r\n{lines}END-{name}\r\n".encode()


class Session:
    """One connection, spoken on line by line; any answer but the one expected is an `OSError`."""

    def __init__(self, port, patience=30):
        self.socket = socket.create_connection(("127.0.0.1", port), patience)
        self.socket.settimeout(patience)
        self.replies = self.socket.makefile("rb")
        try:
            self.ask(b"", 220)
            self.ask(b"EHLO client.example\r\n", 250)
        except (OSError, ValueError):
            self.close()
            raise

    def ask(self, octets, *expected):
        self.socket.sendall(octets)
        while True:
            line = self.replies.readline()
            if line[3:4] != b"-":
                break
        if not line or int(line[:3]) not in expected:
            raise OSError(line.decode("latin-1").strip() or "the connection was closed")
        return line

    def send(self, text, to, sender="s@far.example"):
        self.ask(f"MAIL FROM:<{sender}>\r\n".encode(), 250)
        for address in to:
            self.ask(f"RCPT TO:<{address}>\r\n".encode(), 250, 251)
        self.ask(b"DATA\r\n", 354)
        self.ask(text + b".\r\n", 250)

    def close(self):
        self.replies.close()
        self.socket.close()


class Load:
    """So many clients that send, one message after another, until `stop`; they connect anew whenever they must."""

    def __init__(self, port, to, clients=12, octets=3000):
        self.port, self.to, self.octets = port, to, octets
        self.acknowledged, self.refusals = [], 0
        self.owed = None  # How many of these are owed; all, unless it is said.
        self.goes_on, self.ended = threading.Event(), False
        self.idle = threading.Semaphore(0)
        self.goes_on.set()
        self.threads = [threading.Thread(target=self.client, args=(n,), daemon=True) for n in range(clients)]
        for thread in self.threads:
            thread.start()

    def client(self, which):
        number, session = 0, None
        while not self.ended:
            if not self.goes_on.is_set():
                self.idle.release()
                self.goes_on.wait()
                continue
            number += 1
            name, to = f"m-{which}-{number}-{time.monotonic_ns():x}", self.to[number % len(self.to)]
            try:
                session = session or Session(self.port)
                session.send(message(name, self.octets), to)
                self.acknowledged.append((name, to))
            except (OSError, ValueError):
                self.refusals += 1
                if session:
                    session.close()
                session = None
                time.sleep(0.02)
        if session:
            session.close()

    def pause(self):
        """Returns once no message is under way."""
        self.goes_on.clear()
        for _ in self.threads:
            self.idle.acquire()

    def go_on(self):
        self.goes_on.set()

    def stop(self):
        self.ended = True
        self.goes_on.set()
        for thread in self.threads:
            thread.join()


class Mailboxes:
    """What is in the Maildirs below a folder; each file is read once."""

    def __init__(self, folder):
        self.folder, self.seen = folder, {}

    def count(self):
        """How often each message is in each mailbox, and the files that are not whole."""
        found, torn = {}, []
        for address, below in BOXES.items():
            for part in ("new", "cur"):
                folder = os.path.join(self.folder, below, part)
                for file in os.listdir(folder) if os.path.isdir(folder) else []:
                    path = os.path.join(folder, file)
                    if path not in self.seen:
                        self.seen[path] = whole_name(path)
                    name = self.seen[path]
                    if name:
                        found[name, address] = found.get((name, address), 0) + 1
                    else:
                        torn.append(path)
        return found, torn


def whole_name(path):
    """The name of the message in a file, if all of it is there."""
    with open(path, "rb") as file:
        octets = file.read()
    name = NAME.search(octets)
    whole = name and octets.rstrip(b"\r\n").endswith(b"\nEND-" + name[1])
    return name[1].decode() if whole else None
