"""Contents: what a bundle will hold, settled before anything is written: graphs to be, bank and density."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edge_bdl.findings import Partial
from edge_bdl.manifest import Propagation
from edge_bdl_export.arguments import Asked
from edge_bdl_export.banks import standing_for
from edge_bdl_export.choose import Chosen, choose
from edge_bdl_export.density import Density, fit_density
from edge_bdl_export.frames import SELECTION, CalibrationFrames
from edge_bdl_export.graphs import Network
from edge_bdl_export.proof import propagation
from edge_bdl_export.understand import CHUNK, Understood


@dataclass(frozen=True)
class Contents:
    """What is written.

    Attributes:
        network: In the numbers that it is stored in.
        chosen: The bank, likewise.
        in_fp32: The bank before.
        density: Of known frames; None without any.
        partial: What it costs that only a part is random, where that was asked for.
        propagation: How far moments are from sampling, where that is the form.
        golden_frames: How many of them.
    """

    network: Network
    chosen: Chosen
    in_fp32: Chosen
    density: Density | None
    partial: Partial | msgspec.UnsetType
    propagation: Propagation | msgspec.UnsetType
    golden_frames: int


def settle(
    understood: Understood, frames: CalibrationFrames | None, outsiders: CalibrationFrames | None, asked: Asked
) -> Contents:
    """Choose the members, lower the numbers, fit the density.

    Args:
        understood: The model.
        frames: For calibration.
        outsiders: That the network should not know.
        asked: See ``exporter.export``.

    Raises:
        ExportError: Selection, numbers or form cannot be had.
    """
    found, reading, flops, numbering = understood.found, understood.reading, understood.flops, asked.numbering
    posterior = found.posterior
    partial = found.part.cost(understood.network, frames, reading) if found.part and frames else msgspec.UNSET
    network = numbering.lower(understood.network, frames)
    chosen = choose(
        posterior, network, frames, reading,
        how=asked.selection, samples=asked.samples, chunk=CHUNK, seed=asked.seed,
        head_work=flops.total - flops.deterministic,
        others=standing_for(posterior, understood.given.draws, found.drawn, asked.seed),
        outsiders=outsiders, least=asked.fidelity,
    )  # fmt: skip
    described: Propagation | msgspec.UnsetType = msgspec.UNSET
    if posterior.closed is not None and posterior.closed.whole is not None and frames is not None:
        described = propagation.compare(posterior.closed, found.captured, frames, reading, network, flops.total)
    return Contents(
        network=numbering.lower_members(network, chosen, frames),
        chosen=numbering.store(chosen),
        in_fp32=chosen,
        density=None if frames is None else fit_density(network, frames.part(SELECTION), asked.task),
        partial=partial,
        propagation=described,
        golden_frames=understood.frames_that_fit(chosen.bank.members),
    )
