"""``llm2bids`` as a command that has its libraries loaded already: what it does is the same, in a second less each time.

A process imports everything once and waits at a socket. The command sends its words, folder, environment and streams
there, a fork of that process runs them as a process of its own would, and the command ends with its exit code.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as sent:
    sent.connect({address!r})
    asked = json.dumps({{"words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}).encode()
    socket.send_fds(sent, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    sent.sendall(asked)
    code = sent.recv(1)
sys.exit(code[0] if code else 70)
"""


@contextmanager
def warm_command() -> Iterator[Path]:
    """A folder with the command, to be put first into PATH."""
    with tempfile.TemporaryDirectory(prefix="warm") as folder:
        address, command = f"{folder}/socket", Path(folder, "bin", "llm2bids")
        command.parent.mkdir()
        command.write_text(CLIENT.format(python=sys.executable, address=address))
        command.chmod(0o755)
        server = subprocess.Popen([sys.executable, "-P", __file__, address], stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            assert server.stdout.read(1) == b"!"
            yield command.parent
        finally:
            server.terminate()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()


def serve(address: str) -> None:
    """Wait for commands, one process each."""
    import llm2bids.demo
    import llm2bids.fingerprint
    import llm2bids.prune  # noqa: F401 - what verbs load
    from llm2bids.cli import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(address)
        here.listen()
        os.write(1, b"!")
        while True:
            there, _ = here.accept()
            if os.fork() == 0:
                if os.fork() == 0:  # a grandchild has nobody who must wait for it
                    os._exit(answer(there, main))
                os._exit(0)
            there.close()
            os.wait()


def answer(there: socket.socket, main: Any) -> int:
    """Run one command as a process of its own would."""
    size, streams, *_ = socket.recv_fds(there, 8, 3)
    asked = json.loads(there.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv = ["llm2bids", *asked["words"]]
    try:
        code = main(asked["words"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    there.sendall(bytes([code]))
    return code


if __name__ == "__main__":
    serve(sys.argv[1])
