"""Each dashboard as a picture: its grid, and in each box title, type, unit and what a database with
a real simulated run returned: python -m grafana.sheet FOLDER (make dashboards-sheet)."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from grafana.generate import FOLDER
from tests.grafana_client import frames, rows
from tests.grafana_run import DB, Seeded, seeded

CELL_W, CELL_H, GAP = 62, 34, 4
BACK, BOX, EMPTY, TEXT, DIM = "#111217", "#1d2027", "#5a1e26", "#e6e8eb", "#8b9199"
LINES = ("#56A64B", "#3274D9", "#FF9830", "#A352CC", "#E02F44", "#F2CC0C", "#6ED0E0", "#BA43A9")
BAND = "a swap or cold start is under way"
Json = dict[str, Any]


def answers(db: Seeded, panel: Json) -> tuple[int, list[str], list[list[list[Any]]]]:
    """Rows returned, a few lines that show them, and the series that are numbers over time."""
    count, said, series = 0, [], []
    for target in panel.get("targets", []):
        if target["resultFormat"] == "table":
            found = rows(db.server, DB, target, db.view())
            said += [" | ".join(str(v)[:26] for v in row.values() if v is not None)
                     for row in found]  # fmt: skip
            count += len(found)
            continue
        for name, points in frames(db.server, DB, target, db.view()).items():
            kept = [p for p in points if p[1] is not None]
            count += len(kept)
            if name != BAND and kept:
                said.append(f"{name}: {kept[-1][1]:.4g}" if not isinstance(kept[-1][1], str)
                            else f"{name}: {kept[-1][1]}")  # fmt: skip
                series.append(kept if not isinstance(kept[0][1], str) else [])
    return count, said, series


def plot(draw: Any, box: tuple[int, int, int, int], series: Any, db: Seeded, dots: bool) -> None:
    """Series in one scale, from 0 to the largest of all."""
    left, top, right, bottom = box
    view, most = db.view(), max(v for s in series for _, v in s) or 1
    for color, points in zip(LINES * 9, series, strict=False):
        spots = [
            (max(left, left + (t - view.from_ms) / (view.to_ms - view.from_ms) * (right - left)),
             bottom - v / most * (bottom - top)) for t, v in points
        ]  # fmt: skip
        for x, y in spots:
            draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=color)
        if len(spots) > 1 and not dots:
            draw.line(spots, fill=color)


def sheet(board: Json, db: Seeded) -> Image.Image:
    bottom = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"])
    image = Image.new("RGB", (24 * CELL_W, bottom * CELL_H), BACK)
    draw = ImageDraw.Draw(image)
    for panel in board["panels"]:
        g = panel["gridPos"]
        x, y = g["x"] * CELL_W + GAP, g["y"] * CELL_H + GAP
        right, low = (g["x"] + g["w"]) * CELL_W - GAP, (g["y"] + g["h"]) * CELL_H - GAP
        if panel["type"] == "row":
            draw.text((x, y + 4), panel["title"], TEXT, ImageFont.load_default(18))
            continue
        count, said, series = answers(db, panel)
        unit = panel["fieldConfig"]["defaults"]["unit"]
        draw.rectangle((x, y, right, low), fill=BOX if count else EMPTY)
        head = f"{panel['type']}, {unit}, {count} rows"
        room = (right - x) // 7
        draw.text((x + 6, y + 4), panel["title"][:room], TEXT, ImageFont.load_default(14))
        draw.text((x + 6, y + 21), head[:room], DIM, ImageFont.load_default(11))
        if any(series) and panel["type"] in ("timeseries", "heatmap"):
            dots = panel["type"] == "heatmap" or "points" in json.dumps(panel["fieldConfig"])
            plot(draw, (x + 6, y + 40, right - 190, low - 8), [s for s in series if s], db, dots)
        offset = right - 182 if any(series) and panel["type"] == "timeseries" else x + 6
        for i, line in enumerate(said[: (low - y - 44) // 13]):
            draw.text(
                (offset, y + 40 + i * 13),
                line[: (right - offset) // 6],
                DIM,
                ImageFont.load_default(11),
            )
    return image


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, seeded(Path(folder)) as db:
        for path in sorted(FOLDER.glob("*.json")):
            sheet(json.loads(path.read_bytes()), db).save(out / f"{path.stem}.png")


if __name__ == "__main__":
    main()
