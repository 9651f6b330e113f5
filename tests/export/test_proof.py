"""The proof: sound graphs pass every check, and each check is seen failing on graphs broken for it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edge_bdl import sampling
from edge_bdl.engines import open_engine
from edge_bdl.errors import ProofError
from edge_bdl.findings import ParityCheck
from edge_bdl.manifest import Manifest, StochasticInput, TensorSpec
from edge_bdl_export.proof import equality, moments, plain, proof
from edge_bdl_export.proof.check import above, at_most
from edge_bdl_export.proof.subject import EngineSubject, Subject
from edge_bdl_export.quiet import quiet

ONNX = ("onnxruntime",)
DRAWS = 400


@pytest.fixture
def broken(staged: Any, tmp_path: Path) -> Path:
    """A copy of the sound graphs, to be broken."""
    return Path(shutil.copytree(staged.folder, tmp_path / "broken"))


def failed(subject: Subject, folder: Path, engines: Sequence[str] = ONNX) -> set[str]:
    """Names of the checks that do not pass, without the site or engine in brackets."""
    checks = proof.prove(subject, folder, engines, seed=0, draws=DRAWS)
    with pytest.raises(ProofError, match="nothing was written"):
        proof.insist(checks)
    return {check.check.partition("[")[0] for check in checks if not check.passed}


def edit(folder: Path, name: str, change: Callable[[onnx.GraphProto], object]) -> None:
    path = folder / f"{name}.onnx"
    model = onnx.load(str(path), load_external_data=False)
    change(model.graph)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def product_with(graph: onnx.GraphProto, mask: str) -> onnx.NodeProto:
    """The node that multiplies a mask in."""
    names = {mask}
    for node in graph.node:
        if node.op_type == "Mul" and names & set(node.input):
            return node
        if names & set(node.input):
            names |= set(node.output)
    raise AssertionError(f"no product with {mask}")


def bypass(graph: onnx.GraphProto, mask: str) -> str:
    """Take a mask out of its product; returns what was multiplied with it."""
    node = product_with(graph, mask)
    value = next(name for name in node.input if not name.startswith(mask) and "mask" not in name)
    node.op_type = "Identity"
    del node.input[:]
    node.input.append(value)
    return value


def insert_after(graph: onnx.GraphProto, name: str, *nodes: onnx.NodeProto) -> None:
    """Put nodes behind the one that writes ``name``; they read ``name_before`` and write ``name``."""
    index = next(i for i, node in enumerate(graph.node) if name in node.output)
    producer = graph.node[index]
    producer.output[list(producer.output).index(name)] = f"{name}_before"
    for offset, node in enumerate(nodes):
        graph.node.insert(index + 1 + offset, node)


def times(graph: onnx.GraphProto, name: str, factor: float) -> None:
    """Multiply the tensor ``name`` by a factor, where it is written."""
    graph.initializer.append(numpy_helper.from_array(np.float32(factor), f"{name}_factor"))
    insert_after(graph, name, helper.make_node("Mul", [f"{name}_before", f"{name}_factor"], [name]))


# --- sound ---------------------------------------------------------------------------------------------------------


def test_sound_graphs_pass_every_check_under_every_engine(staged: Any):
    checks = proof.prove(staged.subject, staged.folder, ("onnxruntime", "tflite"), seed=0, draws=DRAWS)
    assert [check for check in checks if not check.passed] == []
    proof.insist(checks)
    names = {(check.engine, check.check) for check in checks}
    for engine in ("onnxruntime", "tflite"):
        assert {name for told, name in names if told == engine} >= {
            "random_operations", "deterministic_equals_torch", "members_equal_torch", "same_member_same_bits",
            "members_differ[first#0]", "members_differ[second#0]", "split_equals_fused", "density_equals_torch[trunk]",
            "density_equals_torch[fused]", "mean_equals_torch", "variance_equals_torch",
        }  # fmt: skip
    assert ("onnxruntime", "agrees_with[tflite]") in names
    assert ("reference", "members_equal_golden") in names
    assert {name.partition("[")[0] for told, name in names if told == "masks"} == {
        "bank_rate", "mask_rate", "mask_units_independent", "mask_members_independent", "mask_scale",
    }  # fmt: skip


def test_trunk_and_head_give_any_number_of_members(staged: Any):
    proved = EngineSubject(staged.subject, open_engine("onnxruntime", staged.folder, staged.subject.manifest))
    frame = staged.subject.frames[0]
    fused = proved.fused(frame)["members"]
    for count in (1, 3, 4, 5, 6):
        members = {name: values[:count] for name, values in staged.subject.members.items()}
        np.testing.assert_allclose(proved.split(frame, members), fused[:count], atol=1e-6)


# --- masks that are lost, mixed up or wrong --------------------------------------------------------------------------


def test_a_mask_that_was_dropped_is_caught(staged: Any, broken: Path):
    edit(broken, "fused", lambda graph: bypass(graph, "mask_0"))
    found = failed(staged.subject, broken)
    assert {"members_differ", "members_equal_torch", "split_equals_fused", "members_equal_golden"} <= found


def test_the_check_names_the_call_site_that_was_lost(staged: Any, broken: Path):
    edit(broken, "fused", lambda graph: bypass(graph, "mask_1"))
    proved = EngineSubject(staged.subject, open_engine("onnxruntime", broken, staged.subject.manifest))
    assert [(c.check, c.passed) for c in equality.members_differ(proved)] == [
        ("members_differ[first#0]", True),
        ("members_differ[second#0]", False),
    ]


def test_a_mask_lost_in_the_head_alone_is_caught(staged: Any, broken: Path):
    edit(broken, "head", lambda graph: bypass(graph, "mask_0"))
    found = failed(staged.subject, broken)
    assert {"split_equals_fused", "variance_equals_torch"} <= found
    assert "members_equal_torch" not in found


def test_masks_that_were_swapped_are_caught(staged: Any, broken: Path):
    def swap(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = {"mask_0": "mask_1", "mask_1": "mask_0"}.get(name, name)

    edit(broken, "fused", swap)
    found = failed(staged.subject, broken)
    assert {"members_equal_torch", "split_equals_fused"} <= found
    assert "members_differ" not in found


def test_a_mask_folded_into_a_constant_is_caught(staged: Any, broken: Path):
    def fold(graph: onnx.GraphProto) -> None:
        constant = np.repeat(staged.subject.members["mask_0"][:1], staged.subject.manifest.bank.members, axis=0)
        graph.initializer.append(numpy_helper.from_array(constant, "folded"))
        for node in graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = "folded" if name == "mask_0" else name

    edit(broken, "fused", fold)
    assert {"members_differ", "members_equal_torch"} <= failed(staged.subject, broken)


def test_a_wrong_scale_in_the_graph_is_caught(staged: Any, broken: Path):
    for name in ("fused", "head"):
        edit(broken, name, lambda graph: times(graph, product_with(graph, "mask_1").output[0], 1.25))
    found = failed(staged.subject, broken)
    assert {"members_equal_torch", "variance_equals_torch"} <= found
    assert "split_equals_fused" not in found


def test_a_posterior_with_other_moments_than_torch_s_is_caught(staged: Any, rebank: Callable[..., Subject]):
    # The masks are sound in themselves, and the graphs equal torch mask by mask: only the rate is not the model's.
    def other(item: StochasticInput) -> StochasticInput:
        fields = {name: getattr(item, name) for name in item.__struct_fields__}
        return StochasticInput(**{**fields, "rate": 0.6, "scale": float(np.float32(1.0 / 0.4))})

    inputs = staged.subject.manifest.bank.inputs
    subject = rebank(staged.subject, inputs=tuple(other(item) for item in inputs))
    engine = EngineSubject(subject, open_engine("onnxruntime", staged.folder, subject.manifest))
    checks = {check.check: check for check in moments.moments_equal_torch(engine, 2000, seed=0)}
    assert not checks["variance_equals_torch"].passed


# --- weights, trunk, density ------------------------------------------------------------------------------------------


def test_a_scaled_weight_is_caught(staged: Any, broken: Path):
    def scale(graph: onnx.GraphProto) -> None:
        tensor = max(graph.initializer, key=lambda t: int(np.prod(t.dims)) if t.data_type == TensorProto.FLOAT else 0)
        assert tensor.data_location == TensorProto.DEFAULT
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.001), tensor.name))

    edit(broken, "det", scale)
    assert failed(staged.subject, broken) == {"deterministic_equals_torch"}


def test_a_trunk_that_is_not_the_fused_one_is_caught(staged: Any, broken: Path):
    edit(broken, "trunk", lambda graph: times(graph, "boundary_0", 1.001))
    found = failed(staged.subject, broken)
    assert "split_equals_fused" in found
    assert "members_equal_torch" not in found


@pytest.mark.parametrize("name", ["trunk", "fused"])
def test_a_wrong_density_is_caught(staged: Any, broken: Path, name: str):
    edit(broken, name, lambda graph: times(graph, "density", 1.05))
    assert failed(staged.subject, broken) == {"density_equals_torch"}


def test_engines_that_disagree_are_caught(staged: Any, broken: Path):
    for name in ("head", "fused"):
        edit(broken, name, lambda graph: times(graph, "members", 1.0001))
    found = failed(staged.subject, broken, ("onnxruntime", "tflite"))
    assert {"agrees_with", "members_equal_torch", "members_equal_golden"} <= found
    assert "split_equals_fused" not in found


def test_an_output_that_is_not_finite_is_caught(staged: Any, broken: Path):
    edit(broken, "fused", lambda graph: times(graph, "members", float("nan")))
    found = failed(staged.subject, broken)
    assert {"members_equal_torch", "same_member_same_bits", "split_equals_fused", "members_equal_golden"} <= found


# --- random operations ------------------------------------------------------------------------------------------------


def test_a_random_operation_is_caught_by_name_and_by_its_bits(staged: Any, broken: Path):
    def noise(graph: onnx.GraphProto) -> None:
        insert_after(
            graph,
            "members",
            helper.make_node("RandomNormalLike", ["members_before"], ["noise"], scale=1e-7),
            helper.make_node("Add", ["members_before", "noise"], ["members"]),
        )

    edit(broken, "fused", noise)
    assert {"random_operations", "same_member_same_bits"} <= failed(staged.subject, broken)


def test_a_random_operation_inside_a_branch_is_counted(staged: Any, broken: Path):
    def branch(graph: onnx.GraphProto) -> None:
        shape = [staged.subject.manifest.bank.members, 1, 2]
        out = [helper.make_tensor_value_info("branch_out", TensorProto.FLOAT, shape)]
        noisy = helper.make_graph([helper.make_node("RandomNormal", [], ["branch_out"], shape=shape)], "noisy", [], out)
        still = helper.make_graph([helper.make_node("Identity", ["members_before"], ["branch_out"])], "still", [], out)
        graph.initializer.append(numpy_helper.from_array(np.array(False), "never"))
        insert_after(
            graph, "members", helper.make_node("If", ["never"], ["members"], then_branch=noisy, else_branch=still)
        )

    edit(broken, "fused", branch)
    assert failed(staged.subject, broken) == {"random_operations"}


def test_the_plain_exporter_s_training_dropout_which_onnxruntime_deletes_is_caught(staged: Any, broken: Path):
    x = torch.from_numpy(staged.subject.frames[0]["x"])
    with quiet():
        training = copy.deepcopy(staged.subject.model).train()
        torch.onnx.export(training, (x,), broken / "plain.onnx", dynamo=True, external_data=False)
    plainly = onnx.load(str(broken / "plain.onnx"))
    assert [node.op_type for node in plainly.graph.node].count("Dropout") == 2
    # What makes it a trap: the runtime takes the randomness out without a word.
    import onnxruntime

    session = onnxruntime.InferenceSession(str(broken / "plain.onnx"), providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    assert all(np.array_equal(session.run(None, feed)[0], session.run(None, feed)[0]) for _ in range(5))
    assert [check.passed for check in plain.no_random_operations(broken, ONNX)] == [False]
    (broken / "plain.onnx").unlink()

    def train(graph: onnx.GraphProto) -> None:
        for mask in ("mask_0", "mask_1"):
            value = bypass(graph, mask)
            node = next(n for n in graph.node if n.op_type == "Identity" and list(n.input) == [value])
            node.op_type = "Dropout"
            graph.initializer.append(numpy_helper.from_array(np.float32(0.3), f"{mask}_rate"))
            graph.initializer.append(numpy_helper.from_array(np.array(True), f"{mask}_train"))
            node.input.extend([f"{mask}_rate", f"{mask}_train"])

    edit(broken, "fused", train)
    found = failed(staged.subject, broken)
    # By its name, and, were it not for the name, by what it does: nothing.
    assert {"random_operations", "members_differ", "members_equal_torch"} <= found
    assert "same_member_same_bits" not in found


def test_a_random_operation_in_tflite_is_counted(tmp_path: Path):
    import litert_torch

    class Noisy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.bernoulli(torch.full_like(x, 0.5))

    with quiet():
        litert_torch.convert(Noisy().eval(), (torch.rand(1, 4),)).export(str(tmp_path / "graph.tflite"))
    (check,) = plain.no_random_operations(tmp_path, ["tflite"])
    assert not check.passed


# --- masks -----------------------------------------------------------------------------------------------------------


def mask_checks(subject: Subject) -> dict[str, ParityCheck]:
    return {check.check: check for check in moments.masks_are_dropout(subject)}


def test_a_biased_bank_is_caught(staged: Any):
    generator = np.random.Generator(np.random.Philox(0))
    members = dict(staged.subject.members)
    scale = np.float32(staged.subject.manifest.bank.inputs[0].scale)
    members["mask_0"] = (generator.random(members["mask_0"].shape) >= 0.9).astype(np.float32) * scale
    checks = mask_checks(replace(staged.subject, members=members))
    assert [name for name, check in checks.items() if not check.passed] == ["bank_rate[mask_0]"]


def test_a_bank_with_a_foreign_value_or_scale_is_caught(staged: Any, rebank: Callable[..., Subject]):
    members = dict(staged.subject.members)
    members["mask_1"] = members["mask_1"] * np.float32(1.01)
    checks = mask_checks(replace(staged.subject, members=members))
    assert [name for name, check in checks.items() if not check.passed] == ["mask_scale[mask_1]"]

    first, second = staged.subject.manifest.bank.inputs
    fields = {name: getattr(first, name) for name in first.__struct_fields__}
    unscaled = rebank(staged.subject, inputs=(StochasticInput(**{**fields, "scale": 1.0}), second))
    members = {**staged.subject.members, "mask_0": (staged.subject.members["mask_0"] > 0).astype(np.float32)}
    checks = mask_checks(replace(unscaled, members=members))
    assert [name for name, check in checks.items() if not check.passed] == ["mask_scale[mask_0]"]


BROKEN_GENERATORS = {
    "mask_rate": lambda u, rate: u >= rate + 0.05,
    "mask_units_independent": lambda u, rate: np.repeat(u[:, :1], u.shape[1], axis=1) >= rate,
    "mask_members_independent": lambda u, rate: np.repeat(u[::2], 2, axis=0) >= rate,
}


@pytest.mark.parametrize("name", BROKEN_GENERATORS)
def test_a_broken_generator_is_caught(staged: Any, monkeypatch: pytest.MonkeyPatch, name: str):
    def draw(bank: Any, first: int, count: int) -> dict[str, np.ndarray]:
        generator = np.random.Generator(np.random.Philox(first))
        uniform = {i.name: generator.random((count, int(np.prod(i.shape)))) for i in bank.inputs}
        return {i.name: BROKEN_GENERATORS[name](uniform[i.name], i.rate).reshape(count, *i.shape) for i in bank.inputs}

    monkeypatch.setattr(moments, "draw_keep", draw)
    bad = {check.check.partition("[")[0] for check in mask_checks(staged.subject).values() if not check.passed}
    assert name in bad


@pytest.mark.parametrize(
    ("units", "rate"), [(1, 0.001), (1, 0.01), (1, 0.05), (2, 0.002), (8, 0.01), (64, 0.2), (3, 0.9)]
)
def test_sound_draws_fail_no_more_often_than_they_should(units: int, rate: float):
    generator = np.random.Generator(np.random.Philox(7))
    item = StochasticInput(name="mask_0", source="", kind="Dropout", shape=(units,), rate=rate)
    beyond = np.zeros(4)
    tries = 1500
    for _ in range(tries):
        keep = generator.random((moments.MASK_DRAWS, units)) >= rate
        a, b = (generator.random((2, 1000, 1)) >= rate).astype(float)
        beyond += np.array(
            [
                moments._rate_z(keep, rate),
                moments._dispersion_z(keep, item, generator),
                moments._agreement_z(keep, rate),
                moments._variance_z(a, b, 0.0),
            ]
        ) > 3.3  # fmt: skip
    # 0.1 % of the time if z is what it says; rare drops must not make it more (Poisson, 1e-6).
    assert beyond.max() <= 1.5 + 5.0 * np.sqrt(1.5) + 3.0


def test_a_deterministic_output_passes_the_moments_up_to_rounding():
    still = np.full((1000, 3), 2.0)
    assert moments._mean_z(still, still + 5e-6, 1e-5) == 0.0
    assert moments._variance_z(still, still + 5e-6, 1e-5) == 0.0
    assert moments._mean_z(still, still + 1e-3, 1e-5) > 20.0
    assert moments._mean_z(still, np.full((1000, 3), np.nan), 1e-5) == float("inf")


def test_moments_tell_a_wrong_variance_and_a_wrong_mean():
    generator = np.random.Generator(np.random.Philox(1))
    a, b = generator.normal(size=(2, 1000, 1))
    assert moments._mean_z(a, b, 0.0) < 4.0
    assert moments._mean_z(a, b + 0.5, 0.0) > 8.0
    assert moments._variance_z(a, b, 0.0) < 4.0
    assert moments._variance_z(a, b * 1.5, 0.0) > 8.0


def test_all_of_a_small_output_is_compared_under_the_masks_behind_the_bank(staged: Any):
    subject, bank = staged.subject, staged.subject.manifest.bank
    proved = EngineSubject(subject, open_engine("onnxruntime", staged.folder, subject.manifest))
    fresh = sampling.masks(bank, sampling.draw_keep(bank, bank.members, 10))
    expected = proved.split(subject.frames[0], fresh).reshape(10, 2)
    assert np.array_equal(moments._engine_draws(proved, 0, 10, seed=0), expected)


def test_of_a_large_output_the_same_few_elements_are_compared_under_every_engine(
    staged: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(moments, "MOMENT_OUTPUTS", 1)
    subject = replace(staged.subject)  # a copy, with nothing drawn yet
    (watched,) = moments._watched(subject, 0)
    for name in ("onnxruntime", "tflite"):
        proved = EngineSubject(subject, open_engine(name, staged.folder, subject.manifest))
        checks = moments.moments_equal_torch(proved, DRAWS, seed=0)
        assert [(check.passed, check.limit) for check in checks] == [(True, moments.limit(2 * 2 * 1))] * 2
        one = moments._engine_draws(proved, 0, DRAWS, seed=0)
        monkeypatch.setattr(moments, "MOMENT_OUTPUTS", 2)
        assert np.array_equal(one[:, 0], moments._engine_draws(proved, 0, DRAWS, seed=0)[:, watched])
        monkeypatch.setattr(moments, "MOMENT_OUTPUTS", 1)
    assert [(key, drawn.shape) for key, drawn in subject.drawn.items()] == [
        ((0, DRAWS, 0), (DRAWS, 1)),
        ((1, DRAWS, 0), (DRAWS, 1)),
    ]


def test_the_elements_of_a_dense_output_are_drawn_once_each_and_by_the_seed(staged: Any):
    fields = {name: getattr(staged.subject.manifest, name) for name in staged.subject.manifest.__struct_fields__}
    output = TensorSpec(name="members", shape=(1, 3, 512, 512), dtype="float32")
    subject = replace(staged.subject, manifest=Manifest(**{**fields, "outputs": (output,)}))
    watched = moments._watched(subject, 7)
    assert len(np.unique(watched)) == len(watched) == 4096
    assert 0 <= watched.min() < 10_000
    assert 3 * 512 * 512 - 10_000 < watched.max() < 3 * 512 * 512
    assert np.array_equal(watched, moments._watched(subject, 7))
    assert not np.array_equal(watched, moments._watched(subject, 8))


def test_masks_of_very_many_units_are_drawn_less_often_and_still_judged(staged: Any, monkeypatch: pytest.MonkeyPatch):
    drawn = []

    def draw(bank: Any, first: int, count: int) -> Any:
        drawn.append(count)
        return sampling.draw_keep(bank, first, count)

    monkeypatch.setattr(moments, "draw_keep", draw)
    monkeypatch.setattr(moments, "_MASK_UNITS", 100 * 16)  # two masks of 8 units
    assert all(check.passed for check in mask_checks(staged.subject).values())
    monkeypatch.setattr(moments, "_MASK_UNITS", 1)
    assert all(check.passed for check in mask_checks(staged.subject).values())
    assert drawn == [100, 64]


def test_the_limit_is_corrected_for_the_number_of_comparisons():
    assert moments.limit(1) == pytest.approx(5.1036, abs=1e-3)
    assert moments.limit(1000) == pytest.approx(6.2824, abs=1e-3)


def test_nan_never_passes():
    assert not at_most("e", "c", float("nan"), 1.0).passed
    assert not above("e", "c", float("nan"), 0.0).passed
    assert at_most("e", "c", 1.0, 1.0).passed
    assert not above("e", "c", 0.0, 0.0).passed


def test_a_failed_proof_names_what_failed_in_one_line():
    checks = [at_most("onnxruntime", f"check_{i}", 2.0, 1.0) for i in range(7)]
    with pytest.raises(ProofError, match=r"check_0 under onnxruntime: 2, allowed 1.* and 3 more") as caught:
        proof.insist(checks)
    assert "\n" not in str(caught.value)
