"""What every engine is to the runtime: named graphs that turn named arrays into named arrays.

An engine is opened once per process and thread; graphs are loaded on first use, so that a robot that only ever runs
the fused graph pays for no other. Member inputs (masks or weights) change far more rarely than frames, so a graph can
*hold* them: converted once, reused over frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from edge_bdl.errors import EngineError, InputError

# One of `Manifest.graphs`.
GraphName: TypeAlias = str

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Mapping[str, Array]


class Held:
    """Member inputs that one graph has taken in; opaque outside the graph that made it.

    Attributes:
        owner: The graph that holds them; no other can use them.
        arrays: What is held, by input name.
    """

    __slots__ = ("arrays", "owner")

    def __init__(self, owner: Graph, arrays: Arrays) -> None:
        self.owner = owner
        self.arrays = dict(arrays)


class Graph(Protocol):
    """One graph of a bundle, ready to run. Not to be shared between threads."""

    def hold(self, constants: Arrays) -> Held:
        """Take in member inputs once, for any number of runs.

        Args:
            constants: Member inputs by name, of the graph's shapes; copied, or not written to afterwards.

        Raises:
            EngineError: A name, shape or dtype is not the graph's.
        """

    def run(self, inputs: Arrays, held: Held | None = None) -> dict[str, Array]:
        """Run the graph once.

        Args:
            inputs: Every input of the graph that is not held, by name.
            held: What `hold` of this graph returned.

        Returns:
            Every output by name. The arrays belong to the caller: no later run writes to them.

        Raises:
            EngineError: The engine failed, or the inputs are not the graph's.
        """


class Engine(Protocol):
    """The graphs of one bundle under one inference library.

    Attributes:
        name: Its name in the engine table.
        version: Library and version, such as ``onnxruntime 1.23.2``.
    """

    name: str
    version: str

    def graph(self, name: GraphName) -> Graph:
        """A graph of the bundle, loaded on first use and then kept.

        Raises:
            EngineError: The engine cannot load it.
        """


def failure(engine: str, doing: str, error: Exception) -> EngineError:
    """An engine's exception as one sentence; vendors put stack traces and newlines into theirs."""
    said = " ".join(str(error).split()) or type(error).__name__
    return EngineError(f"{engine} could not {doing}: {said[:300]}")


def check_names(
    owner: Graph, engine: str, graph: str, expected: frozenset[str], inputs: Arrays, held: Held | None
) -> None:
    """Every input must come exactly once: engines that keep bindings would silently reuse an old frame.

    Raises:
        EngineError: An input is missing, unknown, or given twice, or the members are held by another graph.
    """
    if held is not None and held.owner is not owner:
        raise EngineError(f"{engine}: {graph} was given members that another graph holds")
    given = set(inputs) if held is None else inputs.keys() | held.arrays.keys()
    count = len(inputs) + (0 if held is None else len(held.arrays))
    if given != expected or count != len(expected):
        raise EngineError(f"{engine}: {graph} takes exactly the inputs {sorted(expected)}, got {sorted(given)}")


def mismatch(engine: str, graph: str, name: str, array: Array) -> EngineError:
    """An input that is not one of the graph's, or not of its shape and dtype."""
    return EngineError(f"{engine}: {graph} takes no input {name} of {array.dtype} {array.shape}")


def graph_file(folder: Path, file: str, engine: str) -> Path:
    """Path of a graph file.

    Raises:
        InputError: The bundle was exported without it.
    """
    path = folder / file
    if not path.is_file():
        raise InputError(f"{folder.name} holds no {file}, so {engine} cannot run it: export it for that engine too")
    return path
