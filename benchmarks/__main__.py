"""Run benchmarks one after the other: `python -m benchmarks [NAME …]`; also to artifacts/bench/<name>.json.

Without names all that take minutes; those in SLOW take from ten minutes to an hour, and run when they are named.
"""

import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

NAMES = (
    "rounds",
    "latency",
    "predictor",
    "update",
    "merging",
    "uploads",
    "footprint",
    "poisoning",
    "codecs",
    "strategies",
    "clean_windows",
    "words",
)
SLOW = ("fleet", "chaos")
FOLDER = Path("artifacts/bench")


def main() -> None:
    names = sys.argv[1:] or list(NAMES)
    console = Console()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        console.rule(name)
        began = time.time()
        rows = importlib.import_module(f"benchmarks.{name}").run()
        table = Table("what", "measured", "against", "ratio", "target")
        for row in rows:
            table.add_row(*(str(row.get(k, "")) for k in ("what", "measured", "against", "ratio", "target")))
        console.print(table)
        facts = {"cores": os.cpu_count(), "python": platform.python_version(), "seconds": round(time.time() - began)}
        (FOLDER / f"{name}.json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
    if not sys.argv[1:]:
        console.print(f"Left out, since they take long: {', '.join(SLOW)}")


if __name__ == "__main__":
    main()
