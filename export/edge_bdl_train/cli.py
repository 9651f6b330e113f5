"""``edge-bdl train``: runs a recipe and writes its checkpoint."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_bdl_train.progress import progress_bars, silent
from edge_bdl_train.recipes import RECIPES, open_recipe


def train(argv: Sequence[str]) -> int:
    """Runs ``edge-bdl train ARGV``; returns the exit code.

    Raises:
        EdgeBdlError: the recipe cannot be run as asked.
        SystemExit: the arguments are wrong (code 2), or help was asked for (code 0).
    """
    options = _parser().parse_args(argv)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edge-bdl train", description="Train a network and write its checkpoint.")
    parser.add_argument("--recipe", required=True, choices=sorted(RECIPES), help="what to train")
    parser.add_argument("--out", required=True, type=Path, metavar="X.safetensors", help="checkpoint to write")
    parser.add_argument("--seed", type=int, default=0, help="of the network, the data and the training (default 0)")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, to see that it works")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the recipe's data, where it does not make its own")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
