"""What the verbs' command lines have in common."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from edge_bdl.bundle import Bundle
from edge_bdl.errors import InputError, MissingExtraError
from edge_bdl.runtime import Runtime


class Parser(argparse.ArgumentParser):
    """A parser of one verb; what it cannot parse is an ``InputError``, so one line.

    Args:
        verb: Its name.
        summary: What it does, for ``--help``.
    """

    def __init__(self, verb: str, summary: str) -> None:
        super().__init__(prog=f"edge-bdl {verb}", description=summary, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise InputError(f"{message}; see {self.prog} --help")


class BundleParser(Parser):
    """A parser of one verb that takes a bundle."""

    def __init__(self, verb: str, summary: str) -> None:
        super().__init__(verb, summary)
        self.add_argument("bundle", metavar="BUNDLE", type=Path, help="bundle folder, NAME.ebdl")
        add_trusted_key(self)


def add_trusted_key(parser: Parser) -> None:
    """``--trusted-key`` of verbs that open a bundle."""
    parser.add_argument(
        "--trusted-key",
        metavar="FILE",
        type=Path,
        help="ed25519 public key (PEM, or 32 raw bytes) that must have signed",
    )


def add_samples(parser: Parser) -> None:
    """``--samples`` of verbs that predict."""
    parser.add_argument("--samples", type=int, help="members to use (default: all of the bank)")


def add_json(parser: Parser) -> None:
    """``--json`` of verbs that print a result."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_engine(parser: Parser) -> None:
    """``--engine`` and ``--threads`` of verbs that open one runtime."""
    parser.add_argument(
        "--engine", help="onnxruntime, tflite or reference (default: the bundle's first that is installed)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads inside the engine (default: 1)")


def whole_numbers(text: str) -> tuple[int, ...]:
    """``1,4,16`` as numbers."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 1,4,16, got {text!r}")
    return numbers


def positive(text: str) -> float:
    """A number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def read_key(path: Path | None) -> bytes | None:
    """The trusted key; None without one.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def open_bundle(options: argparse.Namespace) -> Bundle:
    """The bundle that was asked for, verified.

    Raises:
        BundleError: It is not sound.
    """
    return Bundle.open(options.bundle, read_key(options.trusted_key))


def open_runtime(options: argparse.Namespace, bundle: Bundle | None = None) -> Runtime:
    """A runtime on the engine that was asked for, else on the bundle's first engine that is installed.

    Args:
        options: Of a parser with `add_engine` and `add_samples`.
        bundle: Where it is open already.

    Raises:
        MissingExtraError: The engine, or every engine of the bundle, is not installed.
    """
    bundle = bundle or open_bundle(options)
    engines: Iterable[str] = bundle.manifest.engines if options.engine is None else (options.engine,)
    missing = []
    for engine in engines:
        try:
            return Runtime.open(bundle, engine, options.threads, options.samples)
        except MissingExtraError as error:
            missing.append(error)
    raise missing[0]
