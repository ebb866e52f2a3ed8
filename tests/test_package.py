"""The wheel holds everything and works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(call, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_ships_templates_stimuli_and_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bids_templates").rglob("*") if path.is_file()}
    assert {f"llm2bids/{name}" for name in templates} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"llm2bids"}  # nothing else in site-packages
    stimuli = {f"llm2bids/stimuli/{path.name}" for path in (ROOT / "llm2bids" / "stimuli").iterdir()}
    assert {"llm2bids/stimuli/prompts.tsv", "llm2bids/py.typed"} | stimuli <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_the_wheel_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    script = (
        "import sys, llm2bids; from llm2bids.bids.templates import templates; from llm2bids.cli import main; "
        f"assert llm2bids.__file__.startswith({str(site)!r}), llm2bids.__file__; "
        f"assert str(templates()).startswith({str(site)!r}), templates(); "
        "sys.exit(main(['record', 'ds', '--task', 'rest', '--runs', '1', '--blocks', '1', '--tokens', '2']))"
    )
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "sub-phantom_task-rest_acq-block_run-01_bold.nii.gz" in done.stdout


def test_every_pinned_version_is_the_one_installed() -> None:
    from importlib.metadata import PackageNotFoundError, version

    pins = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert len(pins) > 50
    for name, wanted in pins:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue  # an extra of another platform
        assert found.split("+")[0] == wanted, name
