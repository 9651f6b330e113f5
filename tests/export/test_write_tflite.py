"""TFLite as it is shipped: one file, four signatures, weights once, nothing of this machine in it."""

from __future__ import annotations

import site
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_bdl.bundle import Bundle
from edge_bdl_export.quiet import quiet
from edge_bdl_export.write_tflite import write_tflite
from edge_bdl_train.models import PilotNet


@pytest.fixture(scope="module")
def interpreter(camera_bundle: Any) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(camera_bundle.folder / "graph.tflite"))


def test_one_file_holds_four_signatures_with_the_bundle_s_names(camera_bundle: Any, interpreter: Any):
    manifest = Bundle.open(camera_bundle.folder).manifest
    frame, masks = [spec.name for spec in manifest.inputs], [item.name for item in manifest.bank.inputs]
    boundary = [spec.name for spec in manifest.boundary]
    told = {name: (set(s["inputs"]), set(s["outputs"])) for name, s in interpreter.get_signature_list().items()}
    assert told == {
        "det": (set(frame), {"output"}),
        "trunk": (set(frame), {*boundary, "density"}),
        "head": ({*boundary, *masks}, {"members"}),
        "fused": ({*frame, *masks}, {"members", "density"}),
    }


def test_a_stock_interpreter_runs_it_without_edge_bdl(camera_bundle: Any, interpreter: Any):
    bundle = Bundle.open(camera_bundle.folder)
    golden = bundle.golden()
    frame = golden["input.frame"][0]
    actual = interpreter.get_signature_runner("det")(frame=frame)["output"]
    assert np.abs(actual - golden["det.output"][0]).max() <= 1e-5 * np.ptp(golden["fused.members"])


def test_nothing_of_this_machine_is_in_the_file(camera_bundle: Any):
    content = (camera_bundle.folder / "graph.tflite").read_bytes()
    foreign = [str(Path.cwd()), str(Path.home()), *site.getsitepackages(), "site-packages", "Traceback", ".py"]
    assert not [text for text in foreign if text.encode() in content]


def test_weights_of_pilotnet_are_stored_once(networks: Any, tmp_path: Path):
    import litert_torch

    torch.manual_seed(0)
    model, frame = PilotNet().eval(), torch.rand(1, 3, 66, 200)
    network, posterior = networks(model, (frame,))
    members = {i.name: torch.ones(16, *i.shape) for i in posterior.inputs}
    write_tflite(network.graphs(members, 4, None), tmp_path)
    with quiet():
        litert_torch.convert(model, (frame,)).export(str(tmp_path / "plain.tflite"))
    plain = (tmp_path / "plain.tflite").stat().st_size
    assert (tmp_path / "graph.tflite").stat().st_size <= 1.05 * plain


def test_weights_that_fp16_holds_are_stored_as_fp16_and_give_the_same_numbers(networks: Any, tmp_path: Path):
    from ai_edge_litert.interpreter import Interpreter

    torch.manual_seed(0)
    model, frame = PilotNet().eval(), torch.rand(1, 3, 66, 200)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(value.half())
        # A hundredth more than what fp16 holds: rounding it would change the output.
        model.head[3].weight.mul_(1.01)
    network, posterior = networks(model, (frame,))
    graphs = network.graphs({i.name: torch.ones(4, *i.shape) for i in posterior.inputs}, 4, None)
    (tmp_path / "half").mkdir()
    write_tflite(graphs, tmp_path)
    write_tflite(graphs, tmp_path / "half", half=True)
    paths = [folder / "graph.tflite" for folder in (tmp_path, tmp_path / "half")]
    assert paths[1].stat().st_size < 0.6 * paths[0].stat().st_size
    outputs = [
        Interpreter(str(path)).get_signature_runner(name)(**{key: x.numpy() for key, x in graph.example.items()})
        for path in paths
        for name, graph in graphs.items()
    ]
    for exact, halved in zip(outputs[: len(graphs)], outputs[len(graphs) :], strict=True):
        for name in exact:
            assert np.abs(exact[name] - halved[name]).max() <= 1e-6 * (1.0 + np.abs(exact[name]).max())
