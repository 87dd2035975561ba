"""Runs command lines of medsoft in a process that can reach no network; every attempt is written down, and fails.

python -m tests.builders.without_network LOG JSON: JSON is a list of command lines. The exit code is that of the first
that is not 0.
"""

import json
import socket
import sys
from pathlib import Path


def block(log: Path) -> None:
    """Refuse every address but those of this machine's own file system (AF_UNIX), which processes share tensors by."""

    def refuse(what: str, address: object) -> None:
        with log.open("a") as file:
            file.write(f"{what} {address}\n")
        raise OSError(f"no network: {what} {address}")

    class Guarded(socket.socket):
        def connect(self, address):
            if self.family != socket.AF_UNIX:
                refuse("connect", address)
            return super().connect(address)

        def connect_ex(self, address):
            if self.family != socket.AF_UNIX:
                refuse("connect", address)
            return super().connect_ex(address)

        def sendto(self, *arguments):
            if self.family != socket.AF_UNIX:
                refuse("send", arguments[-1])
            return super().sendto(*arguments)

        def bind(self, address):
            if self.family != socket.AF_UNIX:
                refuse("bind", address)
            return super().bind(address)

    socket.socket = Guarded
    socket.getaddrinfo = lambda host, *_, **__: refuse("look up", host)
    socket.gethostbyname = lambda host: refuse("look up", host)


def main(log: str, lines: str) -> int:
    block(Path(log))
    import medsoft as package
    from medsoft.cli.main import main as medsoft

    print(Path(package.__file__).parent)
    for words in json.loads(lines):
        print("$ medsoft", *words, flush=True)
        if code := medsoft(words):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
