"""Write the tables in bench/README.md from bench/results/*.jsonl; with --check only see whether they are up to date.

One table a results file: a line for each figure, a column for each model and number of threads, median milliseconds.
"""

import json
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
BEGIN, END = "<!-- tables, made by bench/table.py -->\n", "<!-- end of tables -->\n"


def tables(files: list[Path]) -> str:
    """All results as Markdown, the newest file first."""
    parts = []
    for file in sorted(files, reverse=True):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        parts.append(f"### {file.stem}\n\n{_about(rows)}\n\n{_table(rows)}\n")
    return "\n".join(parts)


def _about(rows: list[Row]) -> str:
    machines = sorted(
        {f"{r['machine']['chip']}, {r['machine']['cores']} cores, {r['machine']['system']}" for r in rows}
    )
    versions = sorted({f"{name} {version}" for r in rows for name, version in r["versions"].items()})
    torch = sorted({f"torch {r['torch']} ({r['torch_device']})" for r in rows if "torch" in r})
    notes = sorted({r["note"] for r in rows if r["note"]})
    commits = sorted({r["commit"] for r in rows if r["commit"]})
    devices = sorted({r["device"] for r in rows})
    return " ".join(
        f"{name}: {', '.join(found)}."
        for name, found in (
            ("Machine", machines),
            ("Device", devices),
            ("Versions", versions + torch),
            ("Commit", commits),
            ("Note", notes),
        )
        if found
    )


def _table(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(_column(r) for r in rows))
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for r in rows:
        # A later run of the same figure replaces an earlier one.
        lines.setdefault((r["bench"], _case(r), r["unit"]), {})[_column(r)] = _cell(r)
    out = [
        f"| bench | case | ms a | {' | '.join(columns)} |",
        f"| --- | --- | --- | {' | '.join('---:' for _ in columns)} |",
    ]
    for (bench, case, unit), cells in lines.items():
        out.append(f"| {bench} | {case} | {unit} | {' | '.join(cells.get(column, '') for column in columns)} |")
    return "\n".join(out)


def _column(r: Row) -> str:
    return f"{r['model'].removeprefix('seeded ')}, {r['threads']} thread{'s' * (r['threads'] != 1)}"


def _case(r: Row) -> str:
    parts = [r["case"]]
    if r["dtype"] not in (None, "float32"):
        parts.append(r["dtype"])
    if r["state"] == "cold":
        parts.append("cold")
    if "recall" in r:
        parts.append(f"recall {r['recall']:.3f}")
    return ", ".join(parts)


def _cell(r: Row) -> str:
    if r["bench"] != "torch":
        return _ms(r["median_ms"])
    cpu = "" if r["cpu_ratio"] is None else f", CPU time {r['cpu_ratio']:.2f}"
    return f"PyTorch {_ms(r['median_ms'])}, MLX {_ms(r['mlx_median_ms'])}; ratio {r['ratio']:.2f}{cpu}"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def main() -> int:
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    made = before + BEGIN + tables(list((FOLDER / "results").glob("*.jsonl"))) + END + rest.split(END)[1]
    if made == text:
        return 0
    if "--check" in sys.argv[1:]:
        sys.stderr.write(f"{README} is not what bench/table.py makes of the results: run it\n")
        return 1
    README.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
