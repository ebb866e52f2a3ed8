"""Fetch NiiVue, the viewer of our pages, check that it is what we know, and lay it into ``bids_templates/niivue``.

Run by ``make vendor``; needs npm. Licence and ``niivue.json`` are kept with it by hand: to take a newer version, change
version and integrity in ``niivue.json`` and run this again, which writes the new checksums.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HOME = Path(__file__).parents[1] / "bids_templates" / "niivue"
MEMBER = "package/dist/niivue.umd.js"


def fetch(package: str, folder: Path) -> bytes:
    """Fetch a package, packed."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm found nowhere, needed to fetch NiiVue; install Node.js")
    subprocess.run([npm, "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return next(folder.glob("*.tgz")).read_bytes()


def check(packed: bytes, integrity: str) -> None:
    """Refuse a package that is not the one recorded."""
    kind, _, _ = integrity.partition("-")
    found = f"{kind}-{base64.b64encode(hashlib.new(kind, packed).digest()).decode()}"
    if found != integrity:
        sys.exit(f"integrity {found} found, {integrity} needed; find out why before using it")


def unpack(packed: Path) -> bytes:
    """The one file we embed."""
    with tarfile.open(packed) as archive:
        member = archive.extractfile(MEMBER)
        if member is None:
            sys.exit(f"{MEMBER} is no file in {packed.name}; look where this version keeps it")
        return member.read()


def main() -> None:
    """Fetch, check, unpack, record."""
    record = json.loads((HOME / "niivue.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check(fetch(f"{record['Name']}@{record['Version']}", folder), record["Integrity"])
        (HOME / "niivue.umd.js").write_bytes(unpack(next(folder.glob("*.tgz"))))
    record["SHA256"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(HOME.iterdir())
        if path.name != "niivue.json"
    }
    (HOME / "niivue.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
