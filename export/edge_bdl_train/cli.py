"""``edge-bdl train``: runs a recipe and writes its checkpoint, or a study and prints its figures."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_bdl_train.progress import progress_bars, silent
from edge_bdl_train.recipes import RECIPES, STUDIES, open_recipe, open_study
from edge_bdl_train.recipes.study import rounded, with_error


def train(argv: Sequence[str]) -> int:
    """Runs ``edge-bdl train ARGV``; returns the exit code.

    Raises:
        EdgeBdlError: the recipe cannot be run as asked.
        SystemExit: the arguments are wrong (code 2), or help was asked for (code 0).
    """
    options = _parser().parse_args(argv)
    return _study(options) if options.recipe in STUDIES else _recipe(options)


def _recipe(options: argparse.Namespace) -> int:
    recipe = open_recipe(options.recipe, quick=options.quick, data=options.data)
    started = time.monotonic()
    if options.json:
        info = recipe.train(options.out, seed=options.seed, stage=silent)
    else:
        with progress_bars() as stage:
            info = recipe.train(options.out, seed=options.seed, stage=stage)
    seconds = time.monotonic() - started
    size = options.out.stat().st_size
    if options.json:
        print(json.dumps({"out": str(options.out), "bytes": size, "seconds": seconds, **msgspec.to_builtins(info)}))
    else:
        print(f"wrote {options.out}: {info.model} of recipe {info.recipe}, {size / 1e6:.2f} MB, {seconds:.0f} s")
        for name, value in info.figures.items():
            print(f"  {name:<26} {value:.5g}")
    return 0


def _study(options: argparse.Namespace) -> int:
    study = open_study(options.recipe, quick=options.quick, data=options.data)
    started = time.monotonic()
    if options.json:
        figures = study.record(options.out, seed=options.seed)
    else:
        with progress_bars() as stage:
            figures = study.record(options.out, seed=options.seed, stage=stage)
    seconds = time.monotonic() - started
    if options.json:
        measured = msgspec.to_builtins(figures)
        result = {"recipe": study.name, "seed": options.seed, "out": str(options.out), "seconds": seconds}
        print(json.dumps({**result, "figures": measured}))
        return 0
    print(f"wrote {options.out}: {len(figures)} figures of {study.name}, {seconds:.0f} s")
    width = max(len(figure.what) for figure in figures)
    for figure in figures:
        beside = "" if figure.published is None else f"{rounded(figure.published)} ({figure.source})"
        note = {True: "reached", False: "NOT reached", None: ""}[figure.reached]
        print(f"  {figure.what:<{width}}  {with_error(figure):<20}  {beside}  {note}".rstrip())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-bdl train",
        description="Train a network and write its checkpoint, or run a study and print its figures.",
    )
    parser.add_argument("--recipe", required=True, choices=sorted(RECIPES | STUDIES), help="what to train")
    parser.add_argument(
        "--out", required=True, type=Path, help="checkpoint to write; of a study, the folder for its figures and plots"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the network, the data and the training (default 0)")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, to see that it works")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the recipe's data, where it does not make its own")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
