"""``edge-bdl evaluate``: judges a trained network on what its recipe kept for that."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from edge_bdl.commands.arguments import Parser, add_json
from edge_bdl.commands.output import print_json
from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.judge import judge, open_fitted, open_own
from edge_bdl_train.evaluation.plots import plot
from edge_bdl_train.evaluation.report import Evaluation, table
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.progress import Stage, progress_bars, silent
from edge_bdl_train.recipes import RECIPES, open_recipe, recipe_of

_MEMBERS = 32


def evaluate(argv: Sequence[str]) -> int:
    """Runs ``edge-bdl evaluate ARGV``; returns the exit code.

    Raises:
        EdgeBdlError: the arguments or the checkpoint are wrong, or the recipe keeps no data.
        SystemExit: help was asked for (code 0).
    """
    options = _parser().parse_args(argv)
    if options.samples is not None and options.samples < 1:
        raise InputError(f"--samples must be at least 1, got {options.samples}")
    # What a file names is never imported, only what the caller does.
    options.own = options.recipe is not None and ":" in options.recipe
    if options.own and (options.quick or options.data):
        raise InputError(
            f"--quick and --data are for recipes of this package, not for {options.recipe}: leave them out"
        )
    options.recipe = options.recipe or recipe_of(options.checkpoint)
    if options.json:
        posterior, evaluation = _evaluate(options, silent)
    else:
        with progress_bars() as stage:
            posterior, evaluation = _evaluate(options, stage)
    written = [str(path) for path in plot(evaluation, options.plots)] if options.plots else []
    if options.json:
        head = {"checkpoint": str(options.checkpoint), "recipe": options.recipe, "kind": posterior.kind}
        print_json({**head, "seed": options.seed, **msgspec.structs.asdict(evaluation), "plots": written})
        return 0
    print(f"{options.checkpoint}: {posterior.kind} posterior of recipe {options.recipe}")
    print(table(evaluation))
    for path in written:
        print(f"wrote {path}")
    return 0


def _evaluate(options: argparse.Namespace, stage: Stage) -> tuple[Posterior, Evaluation]:
    if options.own:
        posterior, held_out = open_own(options.checkpoint, options.recipe)
    else:
        recipe = open_recipe(options.recipe, quick=options.quick, data=options.data)
        posterior, held_out = open_fitted(options.checkpoint, recipe, stage)
    members = options.samples or min(_MEMBERS, posterior.size or _MEMBERS)
    generator = torch.Generator().manual_seed(options.seed)
    return posterior, judge(posterior, held_out, members=members, generator=generator, stage=stage)


def _parser() -> Parser:
    parser = Parser("evaluate", "Judge a trained network on data that it was not trained on.")
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, help="what `edge-bdl train` wrote, or a posterior"
    )
    parser.add_argument(
        "--recipe",
        metavar="RECIPE",
        help=f"that it was trained by, where the file does not say: {', '.join(sorted(RECIPES))}; or MODULE:FUNCTION, "
        "of your own, which returns network and HeldOut",
    )
    parser.add_argument(
        "--samples", type=int, metavar="S", help=f"members to draw (default {_MEMBERS}, or all there are)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the members (default 0)")
    parser.add_argument("--quick", action="store_true", help="on as little data as `edge-bdl train --quick` makes")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the recipe's data, where it does not make its own")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw plots into this folder")
    add_json(parser)
    return parser
