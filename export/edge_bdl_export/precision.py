"""In which numbers a network's weights and a bank's members are stored: fp32, fp16 or int8."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.errors import ExportError
from edge_bdl.manifest import Numbers
from edge_bdl.stored_tensors import SCALE, floats
from edge_bdl_export.choose import Chosen
from edge_bdl_export.compact_onnx import SMALL_BYTES
from edge_bdl_export.forms.posterior import Posterior
from edge_bdl_export.frames import SELECTION, CalibrationFrames
from edge_bdl_export.graphs import Network
from edge_bdl_export.proof.subject import tensors
from edge_bdl_export.quantise import quantise, quantise_members

# Ranges of activations are settled by fewer frames than that.
_FRAMES = 256
_HALF_MAX = float(np.finfo(np.float16).max)
_INT8_MAX = 127


@dataclass(frozen=True)
class Numbering:
    """What was asked for.

    Attributes:
        weights: Of the network's own weights.
        bank: Of a bank's weights.
    """

    weights: Numbers = "fp32"
    bank: Numbers = "fp32"

    def __post_init__(self) -> None:
        for what, value in (("weights", self.weights), ("bank", self.bank)):
            if value not in get_args(Numbers):
                raise ExportError(f"{what} is one of {', '.join(get_args(Numbers))}; got {value!r}")

    @property
    def exact(self) -> bool:
        """Whether all is fp32."""
        return self.weights == self.bank == "fp32"

    def check(self, posterior: Posterior, calibrated: bool, accept_loss: bool) -> None:
        """See that it can be had.

        Args:
            posterior: Has a bank of weights, or not.
            calibrated: Whether there are calibration frames.
            accept_loss: Whether a loss that nothing measures is accepted.

        Raises:
            ExportError: It cannot.
        """
        if self.bank != "fp32" and (posterior.weights is None or posterior.form == "mask_bank"):
            raise ExportError(
                f"bank={self.bank!r} is for a bank of weights, and this is a {posterior.form}: leave bank as it is"
            )
        if self.bank == "int8" and not (calibrated or accept_loss):
            raise ExportError(
                "without calibration frames nobody knows what an int8 bank costs: give calibration=..., use "
                "bank='fp16', or say accept_loss=True"
            )

    @property
    def half(self) -> bool:
        """Whether graphs store constants as fp16 that are no more than that."""
        return "fp16" in (self.weights, self.bank)

    def advice(self, network: Network, engines: Sequence[str]) -> tuple[str, ...]:
        """What a person should know of it."""
        if self.bank != "int8" or network.built_in or "tflite" not in engines:
            return ()
        return (
            "an int8 bank's weights are inputs of the graphs, which is slow under TFLite (8 members of PilotNet's "
            "head: more than 20 passes): use onnxruntime, or bank='fp16'",
        )

    def lower(self, network: Network, frames: CalibrationFrames | None) -> Network:
        """A network whose weights are no more than they are stored as; torch computes as the engines will.

        Args:
            network: In fp32; not changed.
            frames: For int8: the part that members are selected on gives the ranges of activations.

        Raises:
            ExportError: A weight is too large for fp16, or nothing can be computed in int8.
        """
        parts = network.parts
        if self.weights == "fp16":
            halved = {name: _halved(getattr(parts, name)) for name in ("deterministic", "trunk", "head")}
            return network.with_parts(replace(parts, **halved))
        if self.weights == "int8":
            return network.with_parts(quantise(parts, _selected_on(frames)))
        return network

    def lower_members(self, network: Network, chosen: Chosen, frames: CalibrationFrames | None) -> Network:
        """A network whose members, where they are built into the graphs, are computed in int8 if the bank is.

        Args:
            network: Not changed.
            chosen: The bank, in fp32.
            frames: See `lower`.

        Raises:
            ExportError: Nothing can be computed in int8.
        """
        if self.bank != "int8" or not network.built_in:
            return network
        members = [torch.from_numpy(values) for values in chosen.inputs.values()]
        return network.with_parts(quantise_members(network.parts, members, _selected_on(frames)))

    def store(self, chosen: Chosen) -> Chosen:
        """A bank of weights as it is stored, and as the runtime takes it from there.

        Members are rounded one by one, never what they were drawn from. int8 has one scale per member and first axis,
        which is a layer's outputs; vectors are few numbers, and stay fp32.

        Raises:
            ExportError: A weight is too large for fp16.
        """
        if self.bank == "fp32":
            return chosen
        stored: dict[str, NDArray[Any]] = {}
        for name, values in chosen.inputs.items():
            if self.bank == "fp16":
                _check_half(f"the members' {name}", float(np.abs(values).max()))
                stored[name] = values.astype(np.float16)
            elif values.ndim > 2:
                stored |= _integers(name, values)
            else:
                stored[name] = values
        inputs = {name: floats(stored, name, slice(None)) for name in chosen.inputs}
        return replace(chosen, stored={} if chosen.bank.built_in else stored, inputs=inputs)


def _selected_on(frames: CalibrationFrames | None) -> Iterator[tuple[Tensor, ...]]:
    if frames is None:
        raise ExportError(
            "computing in int8 needs calibration frames, which say how large activations become: give calibration=..., "
            "or use fp16"
        )
    return (tensors(frame) for frame in frames.part(SELECTION).thinned(_FRAMES))


def _halved(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module)
    for name, values in module.named_buffers():
        if values.dtype != torch.float32 or values.numel() * values.element_size() < SMALL_BYTES:
            continue
        _check_half(name, float(values.abs().max()))
        values.copy_(values.half().float())
    return module


def _check_half(name: str, largest: float) -> None:
    if largest > _HALF_MAX:
        raise ExportError(f"{name} holds {largest:.3g}, and fp16 ends at {_HALF_MAX:.0f}: leave it in fp32")


def _integers(name: str, values: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
    rows = values.reshape(*values.shape[:2], -1)
    scale = np.abs(rows).max(-1) / np.float32(_INT8_MAX)
    scale[scale == 0.0] = 1.0
    integers = np.clip(np.round(rows / scale[..., None]), -_INT8_MAX, _INT8_MAX).astype(np.int8)
    return {name: integers.reshape(values.shape), f"{name}{SCALE}": scale}
