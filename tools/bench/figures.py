"""Every study's figures beside the published ones, as a Markdown table for docs/figures.md.

    .venv/bin/python tools/bench/figures.py --runs runs/figures --data uci=FOLDER

Each study runs under several seeds, whose repetitions are pooled; the spread is the standard error of their mean. A run
that has left its figures in the folder is not made again: after a kill, give the same command.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_bdl_train.recipes import STUDIES
from edge_bdl_train.recipes.study import FIGURES_FILE, Figure, pool, read_figures, rounded, with_error

# A UCI run has ten splits in it. Everything else repeats itself under as many seeds as show its spread.
SEEDS: Mapping[str, int] = {"uci": 1, "mnist": 1, "fashion": 1, "active": 3, "rings": 3, "small-data": 3}
USUAL_SEEDS = 5
_HEADER = ("recipe", "what", "published", "ours", "n", "reached", "source", "what differs", "command")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, and prints the table."""
    options = _parser().parse_args(argv)
    data = dict(item.partition("=")[::2] for item in options.data)
    rows = []
    for name in options.recipes:
        seeds = range(options.seeds or SEEDS.get(name, USUAL_SEEDS))
        folders = [options.runs / f"{name}-{'quick-' if options.quick else ''}{seed}" for seed in seeds]
        for seed, folder in zip(seeds, folders, strict=True):
            if not (folder / FIGURES_FILE).exists():
                run(name, seed, folder, quick=options.quick, data=data.get(name))
        command = f"`edge-bdl train --recipe {name}{' --quick' if options.quick else ''} --seed 0 to {len(seeds) - 1}`"
        rows += [table_row(name, figure, command) for figure in pool([read_figures(folder) for folder in folders])]
    print(f"| {' | '.join(_HEADER)} |\n|{'---|' * len(_HEADER)}")
    print("\n".join(rows))


def run(name: str, seed: int, folder: Path, *, quick: bool, data: str | None) -> None:
    """One study under one seed, in a process of its own: none inherits anything from the one before."""
    command = [
        sys.executable,
        "-m",
        "edge_bdl.cli",
        "train",
        "--recipe",
        name,
        "--seed",
        str(seed),
        "--out",
        str(folder),
    ]
    command += ["--quick"] * quick + ([] if data is None else ["--data", data])
    print(" ".join(command[2:]), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=sys.stderr)


def table_row(name: str, figure: Figure, command: str) -> str:
    """One line of the table."""
    reached = {True: "yes", False: "**no**", None: ""}[figure.reached]
    cells = (
        name,
        figure.what,
        rounded(figure.published),
        with_error(figure),
        str(len(figure.values)),
        reached,
        figure.source,
        figure.differs,
        command,
    )
    return f"| {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True, type=Path, metavar="FOLDER", help="where runs are kept")
    parser.add_argument("--recipes", nargs="+", default=sorted(STUDIES), choices=sorted(STUDIES), metavar="NAME")
    parser.add_argument("--seeds", type=int, metavar="N", help="so many of each, instead of the usual number")
    parser.add_argument(
        "--data", nargs="*", default=[], metavar="NAME=FOLDER", help="data of the recipes that want some"
    )
    parser.add_argument("--quick", action="store_true", help="seconds each; the figures mean nothing")
    return parser


if __name__ == "__main__":
    main()
