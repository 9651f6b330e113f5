"""Export end to end: the moments are torch's, engines and processes agree, and a failure leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_bdl.bundle import Bundle
from edge_bdl.errors import BundleError, ExportError, InputError, ProofError, UnsupportedModelError
from edge_bdl.runtime import Runtime
from edge_bdl_export import export, golden

ENGINES = ("onnxruntime", "tflite", "reference")
BUNDLES = ("camera_bundle", "dense_bundle", "ensemble_bundle")


@pytest.fixture(params=BUNDLES)
def exported(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def plain_net(middle: nn.Module | None = None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), middle or nn.Dropout(0.3), nn.Linear(8, 2)).eval()


X = np.linspace(-1.0, 1.0, 4, dtype=np.float32).reshape(1, 4)


# --- what a bundle is ----------------------------------------------------------------------------------------------


def test_every_bundle_carries_a_proof_that_passed_under_both_engines(exported: Any):
    manifest = Bundle.open(exported.folder).manifest
    assert manifest.engines == ("onnxruntime", "tflite")
    assert manifest.parity
    assert all(check.passed for check in manifest.parity)
    assert {check.engine for check in manifest.parity} >= {"onnxruntime", "tflite", "reference"}
    differing = {check.check for check in manifest.parity if check.check.startswith("members_differ")}
    assert differing == {f"members_differ[{item.source}#{item.call}]" for item in manifest.bank.inputs}


def test_the_manifest_describes_the_camera_network(camera_bundle: Any):
    manifest = Bundle.open(camera_bundle.folder).manifest
    assert (manifest.name, manifest.form, manifest.task) == ("camera", "mask_bank", "heteroscedastic")
    assert [(spec.name, spec.shape, spec.dtype) for spec in manifest.inputs] == [("frame", (1, 12, 12, 3), "uint8")]
    assert [(i.source, i.call, i.rate) for i in manifest.bank.inputs] == [
        ("first", 0, 0.3),
        ("drop", 0, 0.2),
        ("drop", 1, 0.2),
    ]
    assert manifest.has_density
    assert 0.5 < manifest.flops.deterministic_share < 1.0
    assert [score.name for score in manifest.policy.scores] == ["epistemic", "total", "density"]
    assert manifest.policy.source == "episode_replay"
    assert [row.samples for row in manifest.fidelity] == list(range(2, 9))
    assert manifest.provenance.versions.keys() >= {"torch", "onnx", "onnxruntime", "litert-torch", "ai-edge-litert"}


def test_multiply_accumulates_are_counted_for_the_whole_and_the_trunk(camera_bundle: Any):
    flops = Bundle.open(camera_bundle.folder).manifest.flops
    convolutions = 8 * 25 * 3 * 9 + 8 * 4 * 8 * 9
    assert (flops.total, flops.deterministic) == (convolutions + 32 * 16 + 16 * 16 + 16 * 2, convolutions)


def test_without_calibration_there_are_no_thresholds_and_a_warning_says_so(dense_bundle: Any):
    manifest = Bundle.open(dense_bundle.folder).manifest
    assert manifest.name == "a map"
    assert manifest.policy.scores == ()
    assert not manifest.has_density
    assert any("without calibration frames" in warning for warning in manifest.warnings)
    assert any("of the computation is shared" in warning for warning in manifest.warnings)


def test_calibration_frames_are_not_used_twice(camera_bundle: Any):
    # Goldens come from the last part: the frames of the last episodes.
    golden = Bundle.open(camera_bundle.folder).golden()
    generator = np.random.Generator(np.random.Philox(1))
    frames = generator.integers(0, 256, (240, 12, 12, 3), dtype=np.uint8)
    found = [int(np.flatnonzero((frames == frame).all((1, 2, 3)))[0]) for frame in golden["input.frame"][:, 0]]
    assert min(found) >= 6 * 30


# --- what it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_give_torch_s_members_to_1e_5_of_the_range(exported: Any, engine: str):
    bundle = Bundle.open(exported.folder)
    golden = bundle.golden()
    expected = golden["fused.members"]
    runtime = Runtime.open(bundle, engine=engine)
    tolerance = 1e-5 * np.ptp(expected)
    for i, members in enumerate(expected[: 1 if engine == "reference" else None]):
        frame = {spec.name: golden[f"input.{spec.name}"][i] for spec in bundle.manifest.inputs}
        held = runtime._members.take(0, len(members))
        graph = runtime.engine.graph("fused")
        actual = graph.run(frame, graph.hold(held))["members"]
        assert np.abs(actual - members).max() <= tolerance
        det = runtime.engine.graph("det").run(frame)["output"]
        assert np.abs(det - golden["det.output"][i]).max() <= tolerance


def test_members_of_a_weight_bank_are_torch_with_each_state(ensemble_bundle: Any):
    golden = Bundle.open(ensemble_bundle.folder).golden()
    for i, member in enumerate(ensemble_bundle.members):
        model = type(ensemble_bundle.model)().eval()
        model.load_state_dict({**ensemble_bundle.model.state_dict(), **member})
        with torch.no_grad():
            expected = model(torch.from_numpy(golden["input.x"][0])).numpy()
        np.testing.assert_allclose(golden["fused.members"][0, i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ["onnxruntime", "tflite"])
def test_a_weight_bank_refuses_more_samples_than_it_holds(ensemble_bundle: Any, engine: str):
    runtime = Runtime.open(ensemble_bundle.folder, engine=engine)
    assert runtime.predict(ensemble_bundle.frames[0], samples=5).samples == 5
    assert runtime.predict(ensemble_bundle.frames[0], samples=3).samples == 3
    with pytest.raises(InputError, match="holds 5 sets of weights and no more, asked for 6"):
        runtime.predict(ensemble_bundle.frames[0], samples=6)


@pytest.mark.parametrize("engine", ["onnxruntime", "tflite"])
@pytest.mark.parametrize("name", ["camera_bundle", "dense_bundle"])
def test_moments_of_10_000_masks_are_those_of_torch_s_own_dropout(
    name: str, engine: str, request: pytest.FixtureRequest
):
    made = request.getfixturevalue(name)
    bundle = Bundle.open(made.folder)
    bank, draws = bundle.manifest.bank, 10_000
    runtime = Runtime.open(bundle, engine=engine)
    frame = {spec.name: value for spec, value in zip(bundle.manifest.inputs, made.frames, strict=True)}
    trunk = runtime.engine.graph("trunk").run(frame)
    boundary = {spec.name: trunk[spec.name] for spec in bundle.manifest.boundary}
    head = runtime.engine.graph("head")
    rows = []
    for first in range(bank.members, bank.members + draws, bank.chunk):
        rows.append(head.run(boundary, head.hold(runtime._members.take(first, bank.chunk)))["members"])
    ours = np.concatenate(rows).astype(np.float64)
    model = type(made.model)()
    model.load_state_dict(made.model.state_dict())
    model.eval()
    for module in model.modules():
        module.training = type(module).__name__.startswith("Dropout")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        inputs = [torch.from_numpy(value) for value in made.frames]
        theirs = np.stack([model(*inputs).numpy() for _ in range(draws)]).astype(np.float64)
    mean_error = np.sqrt((ours.var(0) + theirs.var(0)) / draws)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) / mean_error).max() < 5.5
    kurtosis = ((theirs - theirs.mean(0)) ** 4).mean(0) / theirs.var(0) ** 2
    variance_error = theirs.var(0) * np.sqrt(2.0 * (kurtosis - 1.0) / draws)
    assert (np.abs(ours.var(0) - theirs.var(0)) / variance_error).max() < 5.5


ELSEWHERE = """
import json, sys
import numpy as np
from edge_bdl.runtime import Runtime
folder, engine, frame = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
prediction = Runtime.open(folder, engine=engine).predict(frame, samples=19)
assert "torch" not in sys.modules
print(json.dumps({"mean": prediction.mean.tolist(), "epistemic": prediction.epistemic.tolist()}))
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "tflite"])
def test_another_process_gives_the_same_numbers_for_members_beyond_the_bank(
    camera_bundle: Any, tmp_path: Path, engine: str
):
    frame = tmp_path / "frame.npy"
    np.save(frame, camera_bundle.frames[0])
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(camera_bundle.folder), engine, str(frame)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    there = json.loads(done.stdout)
    here = Runtime.open(camera_bundle.folder, engine="onnxruntime").predict(camera_bundle.frames[0], samples=19)
    exact = engine == "onnxruntime"
    for name in ("mean", "epistemic"):
        np.testing.assert_allclose(
            there[name], getattr(here, name), rtol=0.0 if exact else 1e-3, atol=0.0 if exact else 1e-5
        )


def test_the_same_seed_gives_the_same_bundle_without_touching_model_or_generator(tmp_path: Path):
    model = plain_net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    for name in "ab":
        export(model, X, tmp_path / f"{name}.ebdl", samples=4, formats=("onnx",), name="same")
    assert torch.equal(torch.rand(2), expected)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    a, b = (contents(tmp_path / f"{name}.ebdl") for name in "ab")
    # The manifest tells the time of the export.
    assert {name for name in a if a[name] != b[name]} <= {"manifest.json", "manifest.sha256"}


# --- arguments that do not fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "detection"}, "task is one of classification, regression, heteroscedastic; got 'detection'"),
        ({"selection": "best"}, "selection is one of iid, balanced, selected; got 'best'"),
        ({"selection": "selected"}, "needs calibration frames"),
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"samples": 0}, "samples must be at least 2, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**64}, "seed must be at least 0 and fit 64 bits"),
        ({"formats": ()}, "formats are one or more of onnx, tflite"),
        ({"formats": ("onnx", "torchscript")}, "formats are one or more of onnx, tflite"),
        ({"formats": "onnx"}, "formats are one or more of onnx, tflite; got 'onnx'"),
        ({"task": "classification", "class_axis": 2}, "class_axis 2 is no axis of the model's output"),
        ({"task": "classification", "class_axis": -1}, "class_axis -1 is no axis"),
        ({"deterministic": ["nobody"]}, "deterministic='nobody' is not a module"),
        ({"members": []}, "at least 2 members"),
        ({"calibration": np.zeros((30, 5), np.float32)}, "calibration: frames of"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_written(
    change: dict[str, Any], message: str, tmp_path: Path
):
    with pytest.raises(ExportError, match=message) as caught:
        export(plain_net(), X, tmp_path / "x.ebdl", **{"formats": ("onnx",), **change})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (np.full((1, 4), np.nan, np.float32), "NaN or infinity"),
        (np.zeros((0, 4), np.float32), "empty"),
        (np.array([["a"]]), "not numbers that torch knows"),
        (np.zeros((1, 4), complex), "the example input is torch.complex128"),
        (torch.zeros(1, 4, dtype=torch.bfloat16), "the example input is torch.bfloat16"),
        ((), "does not run on the example input, nothing"),
        ((X, X), "does not run on the example input"),
        (np.zeros((1, 5), np.float32), r"does not run on the example input, torch.float32 \[1, 5\]"),
        (np.zeros((1, 4), np.float64), r"does not run on the example input, torch.float64 \[1, 4\]"),
    ],
)
def test_an_example_that_is_no_frame_is_refused(example: Any, message: str, tmp_path: Path):
    with pytest.raises(ExportError, match=message) as caught:
        export(plain_net(), example, tmp_path / "x.ebdl", formats=("onnx",))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("example", "narrow"), [(torch.ones(1, 3, dtype=torch.int64), "int32"), (torch.ones(1, 4).double(), "float32")]
)
def test_64_bit_inputs_are_refused_for_tflite_with_what_to_do(example: Tensor, narrow: str, tmp_path: Path):
    # Its converter would narrow them without a word, and the bundle would tell a dtype that its file does not take.
    with pytest.raises(ExportError, match=rf"give the example as torch\.{narrow} .* formats=\('onnx',\)"):
        export(plain_net(), example, tmp_path / "x.ebdl")


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.drop, self.last = nn.Embedding(10, 8), nn.Dropout(0.3), nn.Linear(8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(self.drop(self.embed(tokens)).mean(1))


def test_int64_tokens_are_a_frame_for_onnx(tmp_path: Path):
    tokens = torch.tensor([[1, 4, 9, 4, 0]])
    manifest = export(Tokens().eval(), tokens, tmp_path / "x.ebdl", samples=4, formats=("onnx",))
    assert [(spec.name, spec.shape, spec.dtype) for spec in manifest.inputs] == [("tokens", (1, 5), "int64")]
    prediction = Runtime.open(tmp_path / "x.ebdl").predict(tokens.numpy())
    assert prediction.fault is None


def test_an_output_that_is_not_float32_is_refused(tmp_path: Path):
    with pytest.raises(ExportError, match="output is float64; a bundle's output is float32"):
        export(plain_net().double(), X.astype(np.float64), tmp_path / "x.ebdl", formats=("onnx",))


def test_a_heteroscedastic_output_needs_an_even_last_axis(tmp_path: Path):
    model = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 3)).eval()
    with pytest.raises(ExportError, match=r"as many log-variances as means in its last axis, got shape \(1, 3\)"):
        export(model, X, tmp_path / "x.ebdl", task="heteroscedastic", formats=("onnx",))


class Wide(nn.Module):
    """16 MiB per member."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).repeat(1, 1 << 21)


def test_an_output_too_large_for_a_self_test_is_refused_before_the_work(tmp_path: Path):
    with pytest.raises(ExportError, match=r"one frame of the self-test has 336 MiB \(16 members"):
        export(Wide().eval(), X, tmp_path / "x.ebdl", formats=("onnx",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_bundle_has_as_many_golden_frames_as_may_be_stored(
    calibrated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # The four inputs, and the two outputs of 1 + 4 + 4 passes; one byte of packed masks for each of 4 members.
    frame = 4 * 4 + 9 * 2 * 4
    monkeypatch.setattr(golden, "MAX_BYTES", {"golden.safetensors": golden._HEADER_BYTES + 4 + 2 * frame - 1})
    frames = np.random.Generator(np.random.Philox(0)).normal(size=(100, 1, 4)).astype(np.float32)
    export(
        plain_net(), X, tmp_path / "x.ebdl", samples=4, formats=("onnx",), calibration=frames if calibrated else None
    )
    assert Bundle.open(tmp_path / "x.ebdl").golden()["input.input"].shape == (1, 1, 4)


def test_what_is_no_bundle_is_refused_before_the_work(tmp_path: Path):
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_text("dear")
    for name in ("letter", "holiday"):
        # Not a word of the model, which is looked at later.
        with pytest.raises(BundleError, match="is there and is not a bundle; choose another name or remove it"):
            export(plain_net(nn.RReLU()), X, tmp_path / name)
    assert (tmp_path / "holiday" / "photo.jpg").read_text() == (tmp_path / "letter").read_text() == "dear"


def test_a_selection_that_found_nothing_is_told(tmp_path: Path):
    model = nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.4), nn.Linear(1, 1)).eval()
    frames = np.random.Generator(np.random.Philox(0)).normal(size=(120, 1, 4)).astype(np.float32)
    manifest = export(
        model, X, tmp_path / "x.ebdl", samples=4, formats=("onnx",), calibration=frames, selection="selected"
    )
    assert manifest.bank.selection == "balanced"
    assert [w for w in manifest.warnings if "no members closer to the full posterior than balanced ones" in w]


# --- nothing lost -----------------------------------------------------------------------------------------------------


class Ineffective(nn.Module):
    """Its second dropout changes nothing, so that the proof must fail."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain_net()
        self.idle = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + 0.0 * self.idle(x[:, :2])


@pytest.fixture
def existing(tmp_path: Path, camera_bundle: Any) -> tuple[Path, dict[str, bytes]]:
    """A bundle that is already where the export shall write."""
    folder = tmp_path / "there" / "x.ebdl"
    folder.mkdir(parents=True)
    for name, data in contents(camera_bundle.folder).items():
        (folder / name).write_bytes(data)
    return folder, contents(folder)


def test_a_failed_proof_writes_nothing(existing: tuple[Path, dict[str, bytes]]):
    folder, before = existing
    with pytest.raises(ProofError, match=r"members_differ\[idle#0\] under onnxruntime: 0"):
        export(Ineffective().eval(), X, folder, samples=4, formats=("onnx",))
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["x.ebdl"]
    fresh = folder.with_name("new.ebdl")
    with pytest.raises(ProofError):
        export(Ineffective().eval(), X, fresh, samples=4, formats=("onnx",))
    assert [path.name for path in folder.parent.iterdir()] == ["x.ebdl"]


def test_members_that_all_agree_are_refused_with_the_reason(tmp_path: Path):
    with pytest.raises(ProofError, match="all 2 members give the same output in torch itself: the rates are too small"):
        export(plain_net(nn.Dropout(0.0001)), X, tmp_path / "x.ebdl", samples=2, formats=("onnx",))
    assert list(tmp_path.iterdir()) == []


def test_a_refused_model_leaves_an_existing_bundle(existing: tuple[Path, dict[str, bytes]]):
    folder, before = existing
    with pytest.raises(UnsupportedModelError):
        export(plain_net(nn.RReLU()), X, folder, formats=("onnx",))
    assert contents(folder) == before


def test_a_good_export_replaces_an_existing_bundle(existing: tuple[Path, dict[str, bytes]]):
    folder, before = existing
    manifest = export(plain_net(), X, folder, samples=4, formats=("onnx",))
    assert Bundle.open(folder).manifest == manifest
    assert contents(folder) != before
    assert [path.name for path in folder.parent.iterdir()] == ["x.ebdl"]


INTERRUPTED = """
import signal
import sys
import torch
from torch import nn
from edge_bdl_export import export

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, x):
        if self.net[1].training and not torch.compiler.is_exporting():
            import time
            time.sleep(0.5)  # torch's own draws in the proof take for ever
        return self.net(x)

# Where the tests themselves run in the background, SIGINT is ignored by all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
export(Slow().eval(), torch.linspace(-1, 1, 4).reshape(1, 4), sys.argv[1], samples=4, formats=("onnx",))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_export_that_is_interrupted_in_its_proof_leaves_an_existing_bundle(
    existing: tuple[Path, dict[str, bytes]], tmp_path: Path, number: signal.Signals
):
    folder, before = existing
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(folder)],
        env={**os.environ, "TMPDIR": str(temporary)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        # All graphs are staged, and the proof is on its way.
        wait_until(lambda: process.poll() is not None or bool(list(temporary.glob("edge-bdl-*/weights.bin"))))
        assert process.poll() is None
        assert list(temporary.glob("edge-bdl-*/fused.onnx"))
        time.sleep(1.0)
        process.send_signal(number)
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.wait()
    assert contents(folder) == before
    assert Bundle.open(folder).manifest.name == "camera"
    assert [path.name for path in folder.parent.iterdir()] == ["x.ebdl"]
    if number is signal.SIGINT:
        assert list(temporary.glob("edge-bdl-*")) == []


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


# --- what is not installed --------------------------------------------------------------------------------------------


WITHOUT = """
import sys
sys.path[:0] = [sys.argv[1], *sys.argv[3:]]
from torch import nn, ones
from edge_bdl.errors import MissingExtraError
from edge_bdl_export import export
try:
    export(nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 2)), ones(1, 4), sys.argv[2])
except MissingExtraError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("distribution", "module", "line"),
    [
        (
            "litert",
            "litert_torch",
            "litert_torch is not installed, needed to export tflite: pip install 'edge-bdl[export-tflite]'",
        ),
        (
            "onnxscript",
            "onnxscript",
            "onnxscript is not installed, needed to export onnx: pip install 'edge-bdl[export]'",
        ),
    ],
)
def test_a_format_without_its_converter_is_refused_with_the_pip_line(
    distribution: str, module: str, line: str, tmp_path: Path
):
    # An installation like this one, but for one package and its metadata.
    installed = Path(torch.__file__).parents[1]
    without = tmp_path / "site"
    without.mkdir()
    for entry in installed.iterdir():
        if not entry.name.startswith((distribution, module)):
            (without / entry.name).symlink_to(entry)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", WITHOUT, without, tmp_path / "x.ebdl", root, root / "export"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == line
    assert not (tmp_path / "x.ebdl").exists()
