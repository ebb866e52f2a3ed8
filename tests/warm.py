"""``llm2bids`` and ``python`` with all libraries loaded: what they do is the same, in seconds less each time.

A process imports everything once and waits at a socket. A command sends its words, folder, environment and streams
there, a fork of that process runs them as a process of its own would, and the command ends with its exit code.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = """\
#!{python} -IS
import json, os, socket, sys
words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with socket.socket(socket.AF_UNIX) as sent:
    sent.connect({address!r})
    asked = json.dumps({{"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}}).encode()
    socket.send_fds(sent, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    sent.sendall(asked)
    code = sent.recv(1)
sys.exit(code[0] if code else 70)
"""


@contextmanager
def warm_commands() -> Iterator[Path]:
    """A folder with both commands, to be put first into PATH."""
    with tempfile.TemporaryDirectory(prefix="warm") as folder:
        address, commands = f"{folder}/socket", Path(folder, "bin")
        commands.mkdir()
        for name in ("llm2bids", "python"):
            (commands / name).write_text(CLIENT.format(python=sys.executable, address=address))
            (commands / name).chmod(0o755)
        call = [sys.executable, "-P", __file__, address, str(commands / "python")]
        server = subprocess.Popen(call, stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            assert server.stdout.read(1) == b"!"
            yield commands
        finally:
            server.terminate()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()


def serve(address: str, python: str) -> None:
    """Wait for commands, one process each; those that they start themselves with their interpreter come here too."""
    import matplotlib.pyplot as plt
    import nilearn.glm.second_level

    import llm2bids.demonstration.verb
    import llm2bids.networks.fingerprinting
    import llm2bids.pruning.verb

    del nilearn, plt, llm2bids  # loaded is all they need to be
    sys.executable = python
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(address)
        here.listen()
        os.write(1, b"!")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        try:
            while True:
                there, _ = here.accept()
                reap()
                if os.fork() == 0:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    os._exit(answer(there))
                there.close()
        finally:
            reap()


def reap() -> None:
    """Let processes go that have ended, and count their time as ours."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def answer(there: socket.socket) -> int:
    """Run one command as a process of its own would."""
    size, streams, *_ = socket.recv_fds(there, 8, 3)
    asked = json.loads(there.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    try:
        code = run(*asked["words"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    there.sendall(bytes([code]))
    return code


def run(name: str, *words: str) -> int:
    """Do what was typed: a verb of ours, a module, a text of Python or a script."""
    sys.argv = [name, *words]
    if name == "llm2bids":
        from llm2bids.cli import main

        return main(words)
    if words[0] == "-m":
        sys.argv = [*words[1:]]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as the interpreter does
    else:
        sys.argv = [*words]
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    serve(*sys.argv[1:])
