"""Members as state dicts: which parameters differ, that each member is torch with it whatever its layers, refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_bdl import Runtime
from edge_bdl.errors import ExportError
from edge_bdl.manifest import Manifest
from edge_bdl_export import export
from edge_bdl_export.capture import capture
from edge_bdl_export.cut import cut
from edge_bdl_export.forms import weight_bank
from edge_bdl_export.graphs import Network
from edge_bdl_export.proof import built_in
from edge_bdl_export.proof.subject import EngineSubject, Subject
from edge_bdl_export.write_onnx import write_onnx
from edge_bdl_export.write_tflite import write_tflite


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3)
        self.head = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Conv2d(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)))


def state(build: Callable[[], nn.Module], seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = build()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.3, 0.3)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return {name: value.clone() for name, value in model.state_dict().items()}


def heads(build: Callable[[], nn.Module], count: int) -> list[dict[str, Tensor]]:
    return [{n: v for n, v in state(build, seed).items() if n.startswith("head.")} for seed in range(count)]


def posterior_of(model: nn.Module, x: Tensor, members: Any) -> tuple[Any, Network]:
    captured = capture(model, (x,))
    posterior = weight_bank.posterior(model, captured, members)
    names = [node.name for node in captured.inputs]
    return posterior, Network(cut(captured, posterior.stochastic), (x,), names, posterior.inputs)


@pytest.mark.parametrize(
    ("build", "x"),
    [(Linear, torch.rand(1, 4)), (Convolutional, torch.rand(1, 1, 8, 8))],
    ids=["linear", "convolutional"],
)
@pytest.mark.parametrize("whole", [False, True], ids=["heads", "whole states"])
def test_each_member_is_the_model_with_that_state(build: Callable[[], nn.Module], x: Tensor, whole: bool):
    model = build().eval()
    model.load_state_dict(state(build, 99))
    members = heads(build, 4)
    if whole:
        members = [{**model.state_dict(), **member} for member in members]
    posterior, network = posterior_of(model, x, members)
    inputs = [torch.from_numpy(value) for value in posterior.weights.values()]
    actual = network.members(network.boundary, inputs)
    for i, member in enumerate(members):
        fresh = build().eval()
        fresh.load_state_dict({**model.state_dict(), **member})
        with torch.no_grad():
            expected = fresh(x)
        torch.testing.assert_close(actual[i], expected, rtol=1e-4, atol=1e-6)
        told = {name: torch.from_numpy(value[i]) for name, value in posterior.weights.items()}
        torch.testing.assert_close(posterior.reference((x,), told), expected, rtol=1e-6, atol=1e-7)
    assert network.axis.batched == (build is Linear)
    assert network.built_in
    assert [node.name for node in network.parts.boundary]  # the shared body stays in the trunk


def test_only_what_differs_becomes_an_input():
    model = Linear().eval()
    members = [{**model.state_dict(), "head.2.bias": torch.full((3,), float(i))} for i in range(3)]
    posterior, _ = posterior_of(model, torch.rand(1, 4), members)
    assert [(i.name, i.source, i.kind, i.shape) for i in posterior.inputs] == [
        ("weight_0", "head.2.bias", "parameter", (3,))
    ]
    assert posterior.sampler is None
    assert posterior.weights["weight_0"].shape == (3, 3)


def test_the_model_s_own_weights_are_not_changed():
    model = Linear().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    posterior, _ = posterior_of(model, torch.rand(1, 4), heads(Linear, 3))
    posterior.reference((torch.rand(1, 4),), {n: torch.from_numpy(v[0]) for n, v in posterior.weights.items()})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def changed(index: int, change: Callable[[dict[str, Tensor]], object]) -> list[dict[str, Tensor]]:
    members = heads(Linear, 3)
    change(members[index])
    return members


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "at least 2 members, got 0"),
        (heads(Linear, 1), "at least 2 members, got 1"),
        (changed(1, lambda m: m.pop("head.0.bias")), "member 0 has 'head.0.bias', member 1 has not"),
        (changed(0, lambda m: m.pop("head.0.bias")), "member 1 has 'head.0.bias', member 0 has not"),
        (changed(2, lambda m: m.update(extra=torch.zeros(1))), "member 2 has 'extra', member 0 has not"),
        (changed(1, lambda m: m.update({"head.0.bias": torch.zeros(9)})), r"shape \(9,\), the model's has \(8,\)"),
        (changed(1, lambda m: m["head.0.weight"].fill_(float("nan"))), "member 1: 'head.0.weight' holds NaN"),
        (changed(1, lambda m: m["head.0.weight"].fill_(float("inf"))), "member 1: 'head.0.weight' holds NaN or inf"),
        ([heads(Linear, 1)[0]] * 3, "all members are equal"),
        ([{**m, "tail.bias": m["head.2.bias"]} for m in heads(Linear, 3)], "'tail.bias', which the model does not use"),
    ],
)
def test_members_that_do_not_fit_are_refused(members: list[dict[str, Tensor]], message: str):
    with pytest.raises(ExportError, match=message) as caught:
        posterior_of(Linear().eval(), torch.rand(1, 4), members)
    assert "\n" not in str(caught.value)


def test_only_float32_may_differ():
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("steps", torch.tensor([1, 2]))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.steps

    with pytest.raises(ExportError, match=r"'steps' is torch.int64 and differs"):
        posterior_of(Shifted().eval(), torch.rand(1, 2), [{"steps": torch.tensor([i, 2])} for i in range(3)])


# --- layer by layer ---------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """A sequence, of which the last step counts."""

    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.layer = kind(3, 4, batch_first=True, **settings)
        self.out = nn.Linear(8 if settings.get("bidirectional") else 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Linear(3, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x)
        return self.out(self.norm(hidden + self.attend(hidden, hidden, hidden, need_weights=False)[0]).mean(1))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(10, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.words(x).mean(1))


def of(*shape: int) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))


def conv(layer: Callable[[], nn.Module], width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(layer(), nn.ReLU(), nn.Flatten(), nn.Linear(width, 2))


# By layer: a network, an input, and whether its members run together.
LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor, bool]] = {
    "Linear": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), of(4), True),
    "Conv1d": (conv(lambda: nn.Conv1d(2, 4, 3), 32), of(2, 10), False),
    "Conv2d": (conv(lambda: nn.Conv2d(2, 4, 3, groups=2, stride=2, padding=1), 36), of(2, 6, 6), False),
    "Conv3d": (conv(lambda: nn.Conv3d(1, 2, 2), 16), of(1, 3, 3, 3), False),
    "ConvTranspose1d": (conv(lambda: nn.ConvTranspose1d(2, 3, 3, stride=2), 27), of(2, 4), False),
    "ConvTranspose2d": (
        conv(lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), 192), of(2, 3, 3), False,
    ),
    "ConvTranspose3d": (conv(lambda: nn.ConvTranspose3d(1, 2, 2), 54), of(1, 2, 2, 2), False),
    "Embedding": (Words, torch.arange(5, dtype=torch.int32)[None], True),
    "LSTM": (lambda: Recurrent(nn.LSTM), of(3, 3), False),
    "LSTM both ways, two layers": (lambda: Recurrent(nn.LSTM, bidirectional=True, num_layers=2), of(3, 3), False),
    "GRU": (lambda: Recurrent(nn.GRU), of(3, 3), False),
    "MultiheadAttention": (Attending, of(5, 3), True),
    "BatchNorm1d": (lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), of(4), True),
    "BatchNorm2d": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), of(2, 5, 5), False),
    "LayerNorm": (lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)), of(4), True),
    "GroupNorm": (lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 2)), of(4, 4, 4), True),
    "Bilinear, which vmap has no rule for": (lambda: Twice(), of(4), False),
}  # fmt: skip


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(4, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x)


def fused_of(
    build: Callable[[], nn.Module], x: Tensor, members: list[dict[str, Tensor]], chunk: int = 2
) -> tuple[Network, Any]:
    model = build().eval()
    model.load_state_dict(members[0])
    posterior, network = posterior_of(model, x, members)
    weights = {name: torch.from_numpy(values) for name, values in posterior.weights.items()}
    return network, network.graphs(weights, chunk, None)


def told(build: Callable[[], nn.Module], x: Tensor, members: list[dict[str, Tensor]]) -> Tensor:
    """What torch says with each state, [S, ...]."""
    outputs = []
    for member in members:
        model = build().eval()
        model.load_state_dict(member)
        with torch.no_grad():
            outputs.append(model(x))
    return torch.stack(outputs)


@pytest.mark.parametrize("layer", LAYERS)
def test_of_every_layer_each_member_is_torch_with_that_state(layer: str, tmp_path: Path):
    import onnxruntime

    build, x, together = LAYERS[layer]
    members = [state(build, seed) for seed in range(3)]
    network, graphs = fused_of(build, x, members)
    assert network.axis.batched == together
    assert list(graphs) == ["det", "trunk", "head_0", "head_1", "fused"]
    (frame,) = graphs["fused"].example
    expected = told(build, x, members)
    write_onnx({"fused": graphs["fused"]}, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "fused.onnx", providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {frame: x.numpy()})
    assert np.abs(actual - expected.numpy()).max() <= 1e-5 * float(np.ptp(expected.numpy()))
    for i, rows in enumerate((slice(0, 2), slice(2, 3))):
        crossing = graphs["trunk"].module(x)
        torch.testing.assert_close(graphs[f"head_{i}"].module(**crossing)["members"], expected[rows])


class Everything(nn.Module):
    """All kinds of layers that TFLite's converter knows, but for recurrent ones, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(1, 4, 3, stride=2)
        self.norms = nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Conv2d(4, 3, 3))
        self.deep = nn.Conv3d(1, 1, (3, 1, 1))
        self.long = nn.Sequential(nn.Conv1d(3, 5, 2), nn.Tanh(), nn.ConvTranspose1d(5, 3, 1))
        self.widen = nn.Linear(3, 8)
        self.attend, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.words, self.out = nn.Embedding(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        image = self.deep(self.norms(self.grow(x))[:, None])[:, 0, 0]
        steps = self.widen(self.long(image).transpose(1, 2))
        steps = self.norm(steps + self.attend(steps, steps, steps, need_weights=False)[0])
        return self.out(steps.mean(1) + self.words(torch.arange(6)).mean(0))


@pytest.mark.parametrize(
    ("build", "x"),
    [(Everything, of(1, 2, 2)), (lambda: Recurrent(nn.LSTM), of(2, 3)), (lambda: Recurrent(nn.GRU), of(2, 3))],
    ids=["everything else", "LSTM", "GRU"],
)
def test_tflite_gives_the_same_members_of_every_layer_that_its_converter_knows(
    build: Callable[[], nn.Module], x: Tensor, tmp_path: Path
):
    from ai_edge_litert.interpreter import Interpreter

    members = [state(build, seed) for seed in range(2)]
    _, graphs = fused_of(build, x, members, chunk=1)
    expected = told(build, x, members).numpy()
    write_tflite({name: graphs[name] for name in ("trunk", "head_0", "head_1", "fused")}, tmp_path)
    interpreter = Interpreter(str(tmp_path / "graph.tflite"))
    actual = interpreter.get_signature_runner("fused")(x=x.numpy())["members"]
    assert np.abs(actual - expected).max() <= 1e-5 * np.ptp(expected)


@pytest.mark.parametrize("layer", ["ConvTranspose3d", "EmbeddingBag"])
def test_what_tflite_cannot_is_refused_in_one_sentence(layer: str, tmp_path: Path):
    build, x, _ = LAYERS.get(layer, (lambda: nn.EmbeddingBag(9, 2), torch.arange(4, dtype=torch.int32)[None], True))
    _, graphs = fused_of(build, x, [state(build, seed) for seed in range(2)])
    with pytest.raises(ExportError, match="cannot be written as TFLite") as caught:
        write_tflite({"fused": graphs["fused"]}, tmp_path)
    assert str(caught.value).endswith("export with formats=('onnx',)")
    assert "\n" not in str(caught.value)


# --- stored once, proved, run -----------------------------------------------------------------------------------------


class Steering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(72, 24), nn.ReLU(), nn.Linear(24, 2))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))


@pytest.fixture(scope="module", params=["convolutions too", "linear layers only"])
def bank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, Any, Any]:
    x, members = of(1, 8, 8), [state(Steering, seed) for seed in range(5)]
    if request.param == "linear layers only":
        members = [{**member, **{n: v for n, v in members[0].items() if n[0] == "f"}} for member in members]
    folder = tmp_path_factory.mktemp("bank") / "bank.ebdl"
    model = Steering().eval()
    model.load_state_dict(state(Steering, 99) | {n: v for n, v in members[0].items() if n[0] == "f"})
    manifest = export(model, x, folder, members=members, samples=5, formats=("onnx",))
    return folder, manifest, x, members


def test_the_graphs_hold_the_members_and_say_so(bank: tuple[Path, Manifest, Any, Any]):
    folder, manifest, x, members = bank
    assert (manifest.schema_version, manifest.bank.built_in, manifest.member_inputs) == (2, True, ())
    assert manifest.graphs == ("det", "trunk", "head_0", "head_1", "fused")
    runtime = Runtime.open(folder, "onnxruntime")
    expected = told(Steering, x, members).numpy()
    for samples in (5, 4, 2):
        prediction = runtime.predict(x.numpy(), samples)
        np.testing.assert_allclose(prediction.mean, expected[:samples].mean(0), atol=1e-5)
    assert runtime.predict(x.numpy(), deadline_ms=60_000.0).samples == 5
    with pytest.raises(Exception, match="holds 5 sets of weights and no more"):
        runtime.predict(x.numpy(), 6)
    one_by_one = any("runs once per member: conv2d" in warning for warning in manifest.warnings)
    assert one_by_one == ("features.0.weight" in {item.source for item in manifest.bank.inputs})


def test_weights_are_stored_once_for_all_graphs(bank: tuple[Path, Manifest, Any, Any]):
    folder, manifest, _, members = bank
    differing = {item.source for item in manifest.bank.inputs}
    once = sum(value.nbytes for name, value in members[0].items())
    banked = sum(value.nbytes for member in members for name, value in member.items() if name in differing)
    assert (folder / "weights.bin").stat().st_size <= (banked + once) * 1.05 + 64 * 20


def test_every_parameter_s_own_members_are_told_apart(bank: tuple[Path, Manifest, Any, Any]):
    _, manifest, _, _ = bank
    checks = {check.check for check in manifest.parity if check.engine == "onnxruntime"}
    assert {f"members_differ[{item.source}#0]" for item in manifest.bank.inputs} <= checks
    assert {"members_equal_torch", "split_equals_fused", "same_member_same_bits"} <= checks


class _Answers:
    """Graphs that say what they are told to."""

    name = "answers"

    def __init__(self, manifest: Manifest, members: np.ndarray) -> None:
        self._manifest, self._members, self._name = manifest, members, ""

    def graph(self, name: str) -> Any:
        self._name = name
        return self

    def run(self, inputs: Mapping[str, Any], held: object = None) -> dict[str, Any]:
        if self._name.startswith("head_"):
            first = int(self._name.removeprefix("head_")) * self._manifest.bank.chunk
            return {"members": self._members[first : first + self._manifest.bank.chunk]}
        boundary = {spec.name: np.zeros(spec.shape, np.float32) for spec in self._manifest.boundary}
        return {**boundary, "members": self._members}


def test_a_parameter_of_another_member_is_caught_by_its_name(bank: tuple[Path, Manifest, Any, Any]):
    _, manifest, x, members = bank
    model = Steering().eval()
    posterior = weight_bank.posterior(model, capture(model, (x,)), members)
    subject = Subject(
        manifest=manifest, members=posterior.weights, frames=[{"image": x.numpy()}], model=model,
        reference=posterior.reference, sampler=None, network=None, density=None,
    )  # fmt: skip
    lost = next(item for item in manifest.bank.inputs if item.source == "head.0.weight")
    values = posterior.weights[lost.name]
    other = int(np.abs(values - values[0]).reshape(len(values), -1).max(1).argmax())
    exchanged = subject.answer(subject.frames[0], {**subject.member(0), lost.name: values[other]})
    wrong = np.concatenate([exchanged[None], subject.expected[0][1:]])
    for said, good in ((subject.expected[0], True), (wrong, False)):
        proved = EngineSubject(subject, _Answers(manifest, said))  # type: ignore[arg-type]
        verdict = {check.check: check.passed for check in built_in.members_differ(proved)}
        assert verdict["members_differ[head.0.weight#0]"] == good
        assert all(verdict.values()) == good
        assert built_in.same_member_same_bits(proved).passed


def test_a_bank_of_fewer_bits_stays_beside_graphs_that_can_take_it(bank: tuple[Path, Manifest, Any, Any]):
    _, _, x, members = bank
    model = Steering().eval()
    captured = capture(model, (x,))
    posterior = weight_bank.posterior(model, captured, [{"head.2.bias": m["head.2.bias"]} for m in members])
    network = Network(cut(captured, posterior.stochastic), (x,), ["image"], posterior.inputs, apart=True)
    assert not network.built_in
    weights = {name: torch.from_numpy(values) for name, values in posterior.weights.items()}
    assert list(network.graphs(weights, 4, None)) == ["det", "trunk", "head", "fused"]
