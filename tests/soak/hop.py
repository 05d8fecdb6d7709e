"""A next hop that takes mail, and remembers what it took and when it said so.

A message may come twice only if its client was killed before it had written down the answer (DESIGN P5).
"""
import itertools
import re
import socketserver
import threading
import time

NAME = re.compile(rb"^Subject: (m-[0-9a-z-]+)\r?$", re.M)


class Taken:
    """One message as it came, when it was answered, and the number that the answer has."""

    def __init__(self, number, name, recipient, whole):
        self.number, self.name, self.recipient, self.whole = number, name, recipient, whole
        self.came, self.answered = time.monotonic(), None


class Hop(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128

    def __init__(self, delay=0.0):
        """Answers each final dot after `delay` seconds. Recipients whose name begins with `gone` are unknown."""
        super().__init__(("127.0.0.1", 0), Dialogue)
        self.port, self.delay, self.taken, self.numbers = self.server_address[1], delay, [], itertools.count()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def of(self, name):
        return [taken for taken in list(self.taken) if taken.name == name]


class Dialogue(socketserver.StreamRequestHandler):
    def handle(self):
        try:
            self.speak()
        except OSError:
            pass

    def say(self, line):
        self.wfile.write(line + b"\r\n")

    def speak(self):
        self.say(b"220 hop.far.example")
        recipients = []
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"RCPT":
                unknown = b"<gone" in line.lower()
                if not unknown:
                    recipients.append(line.split(b"<")[1].split(b">")[0].decode())
                self.say(b"550 5.1.1 nobody here is called so" if unknown else b"250 2.1.5 fine")
            elif verb == b"DATA" and not recipients:
                self.say(b"554 5.5.1 no valid recipients")
            elif verb == b"DATA":
                self.say(b"354 go on")
                taken = self.take(recipients[0])
                if not taken:
                    return
                recipients = []
                self.say(b"250 2.0.0 taken as %d" % taken.number)
                taken.answered = time.monotonic()
            elif verb == b"QUIT":
                return self.say(b"221 bye")
            else:
                recipients = [] if verb in (b"MAIL", b"RSET") else recipients
                self.say(b"250 fine")

    def take(self, recipient):
        octets = bytearray()
        while (line := self.rfile.readline()) != b".\r\n":
            if not line:
                return None
            octets += line
        name = NAME.search(octets)
        whole = name and octets.endswith(b"END-" + name[1] + b"\r\n")
        taken = Taken(next(self.server.numbers), name[1].decode() if name else "", recipient, bool(whole))
        self.server.taken.append(taken)
        time.sleep(self.server.delay)
        return taken
