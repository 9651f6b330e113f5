"""Where an active-learning run stands, in one safetensors file: what it asked, what it scored, what it learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.tensor_file import read_tensors, write_whole

_METADATA_KEY = "edge_bdl_active"
_OWN = ("chosen", "labels", "accuracy")


@dataclass(frozen=True)
class Curve:
    """A learning curve.

    Attributes:
        labels: labelled examples, after each round.
        accuracy: on the test set, in [0, 1].
    """

    labels: tuple[int, ...] = ()
    accuracy: tuple[float, ...] = ()

    def labels_to(self, accuracy: float) -> int | None:
        """The number of labels at which this accuracy was first reached; None where it never was."""
        return next((n for n, reached in zip(self.labels, self.accuracy, strict=True) if reached >= accuracy), None)

    def then(self, labels: int, accuracy: float) -> Curve:
        """With one more round."""
        return Curve((*self.labels, labels), (*self.accuracy, accuracy))


@dataclass(frozen=True)
class State:
    """Between two rounds.

    Attributes:
        chosen: positions in the pool whose labels are known, int64, in the order in which they were asked.
        curve: of the rounds so far.
        learner: the learner's state.
    """

    chosen: Tensor
    curve: Curve
    learner: Mapping[str, Tensor]


def save_state(path: Path, state: State, run: str) -> None:
    """Writes the state; what was there before is replaced only when the new file is whole.

    Args:
        path: where to.
        state: what to write.
        run: which run this is; ``load_state`` refuses that of another.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors = {
        "chosen": state.chosen,
        "labels": torch.tensor(state.curve.labels, dtype=torch.int64),
        "accuracy": torch.tensor(state.curve.accuracy, dtype=torch.float64),
        **{f"learner.{name}": tensor.detach().contiguous() for name, tensor in state.learner.items()},
    }
    write_whole(path, safetensors.torch.save(tensors, {_METADATA_KEY: run}))


def load_state(path: Path, run: str) -> State | None:
    """The state that a run left; None where there is no file.

    Raises:
        InputError: the file is damaged, or another run's.
    """
    if not path.exists():
        return None
    metadata, tensors = read_tensors(path, "remove it to start again")
    if metadata.get(_METADATA_KEY) != run or any(name not in tensors for name in _OWN):
        raise InputError(
            f"{path} was left by another run ({metadata.get(_METADATA_KEY)}), this is {run}: "
            "remove it to start again, or give another place"
        )
    chosen, labels, accuracy = (tensors.pop(name) for name in _OWN)
    learner = {name.removeprefix("learner."): tensor for name, tensor in tensors.items()}
    return State(chosen, Curve(tuple(labels.tolist()), tuple(accuracy.tolist())), learner)
