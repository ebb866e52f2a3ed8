"""Write docs/columns.md: what every column of every table means, as the sidecars of a dataset say it.

``python docs/make_columns.py DATASET...`` with datasets on which all verbs ran. A test holds the page against new ones.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("columns.md")
VERBS = {"events": "record", "stim": "record", "participants": "record", "timeseries": "prep", "dseg": "prep"}
HEAD = """# Columns of the tables

What every column means, as the sidecars say it. A `.tsv` of BIDS has a sidecar of its own name, or shares one with the
other files of its task; the tables of `networks` share one per question, `…_networks.json`, and those of `lesion` have
`lesion.json`. The files themselves are in [the files](files.md).

Columns named after a task, a network or a layer, such as `pathology` in a matrix of tasks, are left out.
"""


def read_columns(folder: Path) -> dict[str, dict[str, str]]:
    """Columns and their meaning, by kind of table, of all sidecars in a folder."""
    tables: dict[str, dict[str, str]] = defaultdict(dict)
    for path in sorted(folder.rglob("*.json")):
        fields = json.loads(path.read_text())
        if isinstance(fields, dict):
            tables[kind(path.name)].update(columns(fields))
    return {name: texts for name, texts in tables.items() if texts}


def kind(name: str) -> str:
    """What tables of a sidecar are called: its suffix, or the question that is asked."""
    question = re.search(r"desc-([a-z]+)[a-zA-Z]*_networks\.json", name)
    if question:
        return f"networks {question[1]}"
    if "desc-ica_" in name:
        return f"ica {name.rsplit('_', maxsplit=1)[-1].removesuffix('.json')}"
    return re.split(r"[_-]", name.removesuffix(".json"))[-1]


def columns(fields: dict[str, Any]) -> dict[str, str]:
    """Meaning of each column that a sidecar describes; those numbered share one row, those of tasks have none."""
    meanings = fields.get("Columns") if isinstance(fields.get("Columns"), dict) else fields
    texts = {}
    for name, description in (meanings or {}).items():
        text = description.get("Description") if isinstance(description, dict) else description
        plain = meanings is not fields or isinstance(description, dict)
        fixed_name = isinstance(text, str) and not text.startswith("Of the network of task")
        if plain and fixed_name and re.fullmatch(r"[a-z][a-z0-9_]*", name):
            unit = f" Unit: {description['Units']}." if isinstance(description, dict) and "Units" in description else ""
            texts[re.sub(r"\d\d$", "NN", name) if name.startswith(("cosine", "non_steady")) else name] = text + unit
    return texts


def rows(texts: dict[str, str]) -> list[str]:
    """A table in Markdown."""
    cells = (f"| `{name}` | {text.replace('|', chr(92) + '|')} |" for name, text in texts.items())
    return ["| column | is |", "|---|---|", *cells, ""]


def main(folders: list[str]) -> None:
    """Write the page."""
    tables: dict[str, dict[str, str]] = defaultdict(dict)
    for folder in folders:
        for name, texts in read_columns(Path(folder)).items():
            tables[name].update(texts)
    lines = [HEAD]
    for name in sorted(
        tables, key=lambda table: (table.split()[0] in {"networks", "ica", "lesion", "fingerprint"}, table)
    ):
        lines += [f"## {name}", "", *rows(tables[name])]
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
