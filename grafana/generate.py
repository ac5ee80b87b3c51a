"""Write grafana/dashboards/*.json: python -m grafana.generate [--check]

--check writes nothing and ends with 1 when a file is not what would be written.
"""

import argparse
import json
import sys
from pathlib import Path

from grafana import hardware, overview, swaps

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS = {"swaps": swaps.build, "overview": overview.build, "hardware": hardware.build}


def files() -> dict[Path, str]:
    """Every dashboard's file and what it has to hold; the same each time."""
    return {
        FOLDER / f"{name}.json": json.dumps(build(), indent=1, ensure_ascii=False) + "\n"
        for name, build in DASHBOARDS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m grafana.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when out of date")
    check = parser.parse_args().check
    for path, text in files().items():
        if not check:
            path.write_text(text, "utf-8")
        elif not path.is_file() or path.read_text("utf-8") != text:
            sys.exit(f"{path.name} is out of date: run python -m grafana.generate")


if __name__ == "__main__":
    main()
