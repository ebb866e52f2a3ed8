"""Run the examples on the phantom and keep what they print and draw in docs/gallery; ``make gallery`` runs it.

``make docs`` only shows what is there, so that building pages needs no model. Examples that say more of a trained model
have a page of their own beside them, ``examples/<name>.md``, which is shown as it is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"
WIDEST = 1000
"""Pixels of a picture: small files, and no page is wider."""
TINTS = 256
"""Colours of a picture: drawings need few."""


@dataclass(frozen=True, slots=True)
class Example:
    """A script or page of examples/ and what a gallery says of it.

    Parameters
    ----------
    name : str
        Its file.
    title : str
        Heading of its page.
    shows : str
        A sentence about it.
    options : tuple of str
        Further arguments, so that it is done in a minute.
    """

    name: str
    title: str
    shows: str
    options: tuple[str, ...] = ()

    @property
    def page(self) -> Path:
        """Page of the gallery, which is also the name of the folder of its pictures."""
        return DOCS / "gallery" / f"{Path(self.name).stem.lstrip('0123456789_').replace('_', '-')}.md"


GALLERY = (
    Example("01_record.py", "Record a model", "What a recording holds: one voxel per unit, one scan per token."),
    Example("02_nilearn.py", "Networks by nilearn alone", "The calibrated analysis without a line of ours."),
    Example("03_fsl.md", "A model in FSL, and back", "Designs, EV files and maps for FEAT, film_gls and randomise."),
    Example(
        "04_networks_to_model.py", "Silence a network", "What a network does: its own topic suffers, others do not."
    ),
    Example(
        "05_event_related.py", "Within an answer", "How an answer unfolds over tokens, and follows their surprisal."
    ),
    Example(
        "galactica.py",
        "Nencka et al. 2023",
        "Six tasks, their networks, overlap, repeatability and identification, with random weights as control.",
        ("--runs", "2", "--draws", "200"),
    ),
    Example(
        "networks_without_a_task.py",
        "Liu et al. 2025: components",
        "Networks without a task: how many, which recur, and whose they are.",
        ("--runs", "2", "--draws", "200", "--resamples", "2"),
    ),
    Example(
        "lesion.py",
        "Liu et al. 2025: lesions",
        "Each network silenced against each topic; components masked and kept alone.",
        ("--runs", "2", "--prompts", "2", "--controls", "20"),
    ),
)


def run(example: Example, folder: Path) -> str:
    """What an example prints; of a page, its commands one after the other."""
    source = EXAMPLES / example.name
    call = [sys.executable, str(source), ".", *example.options]
    if source.suffix == ".md":
        call = [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            "\n".join(re.findall(r"^```bash\n(.*?)^```", source.read_text(), re.MULTILINE | re.DOTALL)),
        ]
    process = subprocess.run(
        call, cwd=folder, env=os.environ | {"COLUMNS": "120"}, capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise SystemExit(f"{example.name} failed:\n{process.stdout}\n{process.stderr}")
    return process.stdout.replace(f"{folder}{os.sep}", "")


def keep_pictures(example: Example, folder: Path) -> list[str]:
    """Copy what was drawn, small, and name it as the page does."""
    names = []
    stem = Path(example.name).stem
    pictures = {*folder.glob("*.png"), *(folder / stem).glob("*.png")}
    for picture in sorted(pictures):
        name = f"{example.page.stem}-{picture.stem}.png"
        with Image.open(picture) as image:
            image.thumbnail((WIDEST, 4 * WIDEST), Image.Resampling.LANCZOS)
            # Coverage before frequency: a thin line keeps its colour, so that a legend that says "orange" stays true.
            small = image.convert("RGB").quantize(TINTS, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
            small.save(example.page.with_name(name), optimize=True)
        names.append(name)
    return names


def write_page(example: Example, output: str, pictures: list[str]) -> None:
    """Write the page of an example: what it shows, prints and draws, and how it is made."""
    source = f"../../examples/{example.name}"
    lines = [f"# {example.title}", "", f"{example.shows}", ""]
    call = " ".join(["python", f"examples/{example.name}", *example.options])
    if example.name.endswith(".py"):
        lines += ["On the phantom:", "", "```sh", call, "```", ""]
    lines += [line for name in pictures for line in (f"![What {example.name} draws]({name})", "")]
    lines += ["It prints" if pictures else "Its commands print", "", "```text", output.rstrip(), "```", ""]
    trained = EXAMPLES / f"{Path(example.name).stem}.md"
    if example.name.endswith(".py") and trained.exists():
        page_of_trained = f"{example.page.stem}-trained"
        lines += [
            f"The same of [a small trained model]({page_of_trained}.md).",
            "",
            "```{toctree}",
            ":hidden:",
            "",
            page_of_trained,
            "```",
            "",
        ]
        include = f"```{{include}} ../../examples/{trained.name}\n:relative-images:\n:relative-docs: ..\n```\n"
        example.page.with_name(f"{example.page.stem}-trained.md").write_text(include)
    if example.name.endswith(".py"):
        lines += ["## The script", "", f"```{{literalinclude}} {source}", ":language: python", "```"]
    else:
        lines += ["## The page", "", f"```{{include}} {source}", ":relative-docs: ..", ":heading-offset: 1", "```"]
    example.page.write_text("\n".join(lines) + "\n")


def write_index(pictures: dict[str, list[str]]) -> None:
    """Write the page that shows one picture of each."""
    lines = [
        "# Gallery",
        "",
        "What the scripts of `examples/` print and draw on the phantom; `make gallery` makes it anew.",
        "",
    ]
    lines += ["::::{grid} 1 2 2 3", ":gutter: 3", ""]
    for example in GALLERY:
        lines += [f":::{{grid-item-card}} {example.title}", f":link: {example.page.stem}", ":link-type: doc"]
        lines += [f":img-top: {name}" for name in pictures[example.name][:1]]
        lines += ["", example.shows, ":::", ""]
    lines += ["::::", "", "```{toctree}", ":hidden:", ""]
    lines += [example.page.stem for example in GALLERY]
    (DOCS / "gallery" / "index.md").write_text("\n".join([*lines, "```"]) + "\n")


def main(names: list[str]) -> None:
    """Make all pages, or those of the examples named."""
    (DOCS / "gallery").mkdir(exist_ok=True)
    for example in GALLERY:
        if names and example.name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            output = run(example, Path(folder).resolve())
            write_page(example, output, keep_pictures(example, Path(folder)))
    pictures = {
        example.name: sorted(path.name for path in example.page.parent.glob(f"{example.page.stem}-*.png"))
        for example in GALLERY
    }
    write_index(pictures)


if __name__ == "__main__":
    main(sys.argv[1:])
