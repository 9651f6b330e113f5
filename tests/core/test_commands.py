from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edge_bdl import cli
from edge_bdl.bundle import Bundle, sign_bundle
from edge_bdl.commands.frames import frame_files, read_frame
from edge_bdl.errors import InputError
from edge_bdl.manifest import TensorSpec
from edge_bdl.runtime import Runtime

BUNDLES = Path(__file__).parents[1] / "bundles"
MASKS, WEIGHTS, DENSE = (str(BUNDLES / f"tiny_{name}.ebdl") for name in ("masks", "weights", "dense"))

Copy = Callable[..., Path]


class Ran:
    """What a command printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        assert self.out.count("\n") == 1
        value: dict[str, Any] = json.loads(self.out)
        return value


@pytest.fixture
def edge_bdl(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*arguments: object) -> Ran:
        code = cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    """A frame for ``tiny_masks``."""
    path = tmp_path / "frame.npy"
    np.save(path, Bundle.open(MASKS).golden()["input.frame"][0])
    return path


def installed() -> str:
    """The engine that a command takes by default here."""
    from edge_bdl.commands.arguments import BundleParser, add_engine, open_runtime

    parser = BundleParser("predict", "")
    add_engine(parser)
    parser.set_defaults(samples=None)
    return open_runtime(parser.parse_args([MASKS])).engine.name


# inspect


def test_inspect_gives_the_agreed_keys(edge_bdl: Callable[..., Ran]) -> None:
    ran = edge_bdl("inspect", MASKS, "--json")
    assert ran.code == 0
    facts = ran.json
    assert list(facts) == [
        "name", "schema_version", "form", "members", "selection", "task", "inputs", "outputs",
        "deterministic_flops_share", "fidelity", "precision", "partial", "files", "parity",
    ]  # fmt: skip
    assert facts["name"] == "tiny_masks"
    assert facts["members"] == 16
    assert facts["inputs"] == [{"name": "frame", "shape": [1, 16, 16, 3], "dtype": "uint8"}]
    assert facts["files"]["weights.bin"].keys() == {"bytes", "sha256"}
    assert facts["parity"][0].keys() == {"engine", "check", "value", "limit", "passed"}
    assert 0.0 < facts["deterministic_flops_share"] < 1.0
    assert [row["samples"] for row in facts["fidelity"]] == list(range(2, 17))
    assert facts["fidelity"][0].keys() == {"samples", "reference_members", "kl", "epistemic_spearman"}
    assert facts["partial"] is None


def test_inspect_tells_people_what_a_bundle_is(edge_bdl: Callable[..., Ran]) -> None:
    text = edge_bdl("inspect", MASKS).out
    for fact in ("16 balanced, mask_bank", "frame uint8 [1, 16, 16, 3]", Bundle.open(MASKS).digest, "warning: "):
        assert fact in text
    assert "none: a policy will hold" in edge_bdl("inspect", DENSE).out


def test_inspect_shows_how_faithful_few_members_are(
    edge_bdl: Callable[..., Ran], copy_bundle: Copy, reseal: Callable[..., None]
) -> None:
    text = edge_bdl("inspect", MASKS).out
    table = [line.split() for line in text.partition("fidelity to 256 members")[2].splitlines()[1:6]]
    assert [row[0] for row in table] == ["samples", "2", "4", "8", "16"]
    assert table[0] == ["samples", "KL", "Spearman"]
    row = Bundle.open(MASKS).manifest.fidelity[2]
    assert table[2][1:] == [f"{row.kl:.3g}", f"{row.epistemic_spearman:.3f}"]
    assert "fidelity" not in edge_bdl("inspect", DENSE).out

    def more(manifest: dict[str, Any]) -> None:
        manifest["schema_version"] = 2
        for row in manifest["fidelity"]:
            row |= {"seen_kl": 0.125, "seen_epistemic_spearman": 0.75, "auroc_lost": 0.0625}
        manifest["partial"] = {
            "from_layer": "middle", "reference_members": 256, "kl": 0.5, "epistemic_spearman": 0.9, "mean_error": 0.25,
            "epistemic_ratio": 0.625,
        }  # fmt: skip

    folder = copy_bundle()
    reseal(folder, more)
    text = edge_bdl("inspect", folder).out
    assert "KL, selected on  Spearman, selected on  AUROC lost" in text
    assert text.count("0.125            0.75                   0.0625") == 4
    assert "from middle on; scores rank as the whole posterior's to 0.900 and are 0.62 of theirs" in text
    facts = edge_bdl("inspect", folder, "--json").json
    assert facts["partial"]["from_layer"] == "middle"
    assert facts["fidelity"][0]["auroc_lost"] == 0.0625


def test_inspect_of_no_bundle_is_bad_input(edge_bdl: Callable[..., Ran], tmp_path: Path) -> None:
    ran = edge_bdl("inspect", tmp_path / "nothing.ebdl")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"edge-bdl: {tmp_path}/nothing.ebdl does not exist\n"


# verify


@pytest.mark.parametrize("bundle", [MASKS, WEIGHTS])
def test_verify_passes_a_sound_bundle(bundle: str, edge_bdl: Callable[..., Ran]) -> None:
    ran = edge_bdl("verify", bundle, "--json")
    assert ran.code == 0
    verdict = ran.json
    assert list(verdict) == ["ok", "checks"]
    assert verdict["ok"] is True
    assert all(list(check) == ["name", "engine", "passed", "detail"] for check in verdict["checks"])
    assert {"files", "members", "split_members"} <= {check["name"] for check in verdict["checks"]}
    assert installed() in {check["engine"] for check in verdict["checks"]}


def test_verify_fails_a_damaged_bundle_with_code_1(edge_bdl: Callable[..., Ran], copy_bundle: Copy) -> None:
    folder = copy_bundle()
    (folder / "weights.bin").write_bytes(b"")
    ran = edge_bdl("verify", folder, "--json")
    assert ran.code == 1
    assert ran.json["ok"] is False
    (check,) = ran.json["checks"]
    assert (check["name"], check["engine"], check["passed"]) == ("files", None, False)
    assert "weights.bin has 0 bytes" in check["detail"]
    text = edge_bdl("verify", folder)
    assert text.code == 1
    assert "NOT verified" in text.out


def test_verify_fails_outputs_that_are_not_the_proved_ones(
    edge_bdl: Callable[..., Ran], copy_bundle: Copy, reseal: Callable[..., None]
) -> None:
    # A graph that answers otherwise than torch did, with fitting hashes: only running it finds out.
    folder = copy_bundle()
    golden = {name: array.copy() for name, array in load_file(folder / "golden.safetensors").items()}
    golden["det.output"] += np.float32(1.0)
    golden["fused.members"][:, -1] += np.float32(1.0)
    save_file(golden, folder / "golden.safetensors")
    reseal(folder)
    ran = edge_bdl("verify", folder, "--json", "--engine", installed())
    assert ran.code == 1
    failed = {check["name"] for check in ran.json["checks"] if not check["passed"]}
    assert failed == {"deterministic", "members", "split_members"}


def test_verify_insists_on_a_trusted_signature(edge_bdl: Callable[..., Ran], copy_bundle: Copy, tmp_path: Path) -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519", reason="the extra sign")
    private = ed25519.Ed25519PrivateKey.generate()
    key = tmp_path / "key.pub"
    key.write_bytes(private.public_key().public_bytes_raw())
    folder = copy_bundle()
    unsigned = edge_bdl("verify", folder, "--json", "--trusted-key", key)
    assert unsigned.code == 1
    assert [check["name"] for check in unsigned.json["checks"]] == ["signature"]
    sign_bundle(folder, private.private_bytes_raw())
    signed = edge_bdl("verify", folder, "--json", "--trusted-key", key)
    assert signed.code == 0
    assert {"signature", "files"} <= {check["name"] for check in signed.json["checks"]}
    assert edge_bdl("verify", folder, "--trusted-key", tmp_path / "no.pub").code == 2


def test_verify_of_an_engine_that_is_not_known_is_bad_usage(edge_bdl: Callable[..., Ran]) -> None:
    ran = edge_bdl("verify", MASKS, "--engine", "abacus")
    assert ran.code == 2
    assert "abacus" in ran.err


# predict


def test_predict_gives_the_agreed_keys_and_what_python_gives(edge_bdl: Callable[..., Ran], frame: Path) -> None:
    ran = edge_bdl("predict", MASKS, "--input", frame, "--json")
    assert ran.code == 0
    answer = ran.json
    assert list(answer) == [
        "samples", "mean", "aleatoric", "epistemic", "total", "standard_error", "stop_reason", "latency_ms", "engine",
    ]  # fmt: skip
    expected = Runtime.open(MASKS, installed()).predict(np.load(frame))
    assert (answer["samples"], answer["stop_reason"], answer["engine"]) == (16, "samples", installed())
    for name in ("mean", "aleatoric", "epistemic", "total", "standard_error"):
        assert answer[name] == getattr(expected, name).tolist()
    assert answer["latency_ms"] > 0.0


def test_predict_takes_samples_and_a_deadline(edge_bdl: Callable[..., Ran], frame: Path) -> None:
    assert edge_bdl("predict", MASKS, "--input", frame, "--json", "--samples", 20).json["samples"] == 20
    hurried = edge_bdl("predict", MASKS, "--input", frame, "--json", "--deadline-ms", 1e-6).json
    assert (hurried["samples"], hurried["stop_reason"]) == (4, "deadline")


def test_predict_says_when_its_answer_is_no_evidence(edge_bdl: Callable[..., Ran], frame: Path) -> None:
    ran = edge_bdl("predict", MASKS, "--input", frame, "--samples", 1, "--json")
    assert ran.code == 0
    assert "no evidence: one sample" in ran.err
    assert ran.json["epistemic"] == [[None]]  # JSON has no NaN


def test_predict_tells_people_all_of_it(edge_bdl: Callable[..., Ran], frame: Path) -> None:
    text = edge_bdl("predict", MASKS, "--input", frame).out
    assert text.startswith("16 members, ")
    for name in ("mean", "aleatoric", "epistemic", "total", "standard_error", "density"):
        assert f"\n  {name} " in text


def test_predict_takes_several_inputs_in_the_bundles_order(edge_bdl: Callable[..., Ran], tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.ones((1, 1, 6, 7), np.float32))
    np.save(tmp_path / "gain.npy", np.ones((1, 1), np.float32))
    inputs = ("--input", tmp_path / "image.npy", "--input", tmp_path / "gain.npy")
    assert edge_bdl("predict", DENSE, *inputs, "--json").json["samples"] == 6
    short = edge_bdl("predict", DENSE, *inputs[:2])
    assert short.code == 2
    assert "takes 2 inputs (image, gain), got 1" in short.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a file"),
        (b"", "cannot be read"),
        (b"PK\x03\x04 not a zip", "cannot be read"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'}", "cannot be read"),
        (np.zeros((4, 4, 3), np.uint8), "expected frame: uint8 [1, 16, 16, 3], got uint8 [4, 4, 3]"),
        (np.zeros((16, 16, 3), np.float32), "got float32"),
        (np.array([{}], dtype=object), "cannot be read"),
    ],
    ids=["missing", "empty", "zip", "header", "shape", "dtype", "pickle"],
)
def test_predict_answers_bad_frames_with_one_line(
    content: Any, message: str, edge_bdl: Callable[..., Ran], tmp_path: Path
) -> None:
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    ran = edge_bdl("predict", MASKS, "--input", path)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    (line,) = [line for line in ran.err.splitlines() if not line.startswith("INFO: ")]  # tflite's own
    assert line.startswith("edge-bdl: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--samples", "0"),
        ("--samples", "many"),
        ("--deadline-ms", "0"),
        ("--deadline-ms", "nan"),
        ("--threads", "0"),
        ("--engine", "abacus"),
    ],
)
def test_predict_answers_bad_options_with_one_line(
    arguments: tuple[str, str], edge_bdl: Callable[..., Ran], frame: Path
) -> None:
    ran = edge_bdl("predict", MASKS, "--input", frame, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("edge-bdl: ")


def test_more_samples_than_a_bank_of_weights_is_bad_input(edge_bdl: Callable[..., Ran], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(6, np.float32))
    ran = edge_bdl("predict", WEIGHTS, "--input", tmp_path / "x.npy", "--samples", 9)
    assert ran.code == 2
    assert "holds 8 sets of weights" in ran.err


# frames


def test_images_are_read_as_the_input_has_channels(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the extra image")
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    image.fromarray(pixels).save(tmp_path / "x.png")
    colour = TensorSpec(name="x", shape=(1, 5, 4, 3), dtype="uint8")
    grey = TensorSpec(name="x", shape=(1, 5, 4, 1), dtype="uint8")
    assert np.array_equal(read_frame(tmp_path / "x.png", colour), pixels)
    assert read_frame(tmp_path / "x.png", grey).shape == (5, 4, 1)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(50)])
def test_damaged_images_are_input_errors(data: bytes, tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image", reason="the extra image")
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(InputError, match="cannot be read"):
        read_frame(tmp_path / "x.png", TensorSpec(name="x", shape=(1, 5, 4, 3), dtype="uint8"))


def test_frames_come_in_the_order_of_the_numbers_in_their_names(tmp_path: Path) -> None:
    for name in ("10_cam.npy", "9_cam.npy", "100_cam.npy", "notes.txt", "a.npy"):
        (tmp_path / name).touch()
    assert [path.name for path in frame_files(tmp_path)] == ["a.npy", "9_cam.npy", "10_cam.npy", "100_cam.npy"]


# profile


def test_profile_gives_the_agreed_keys_and_writes_a_page(edge_bdl: Callable[..., Ran], tmp_path: Path) -> None:
    page = tmp_path / "profile.html"
    ran = edge_bdl(
        "profile", MASKS, "--engine", installed(), "--samples", "2,16", "--seconds", 0.1, "--json", "--html", page
    )
    assert ran.code == 0
    report = ran.json
    assert list(report) == ["machine", "cold_start_ms", "peak_rss_mb", "rows"]
    assert [(row["engine"], row["threads"], row["samples"]) for row in report["rows"]] == [
        (installed(), 1, 2),
        (installed(), 1, 16),
    ]
    assert list(report["rows"][0]) == [
        "engine", "threads", "samples", "n", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms", "det_p50_ms", "ratio",
        "naive_p50_ms", "speedup", "overhead_us",
    ]  # fmt: skip
    assert page.read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["profile.html"]


@pytest.mark.parametrize(
    "arguments", [("--samples", "1,,2"), ("--samples", "0"), ("--threads", "x"), ("--seconds", "-1")]
)
def test_profile_answers_bad_options_with_one_line(arguments: tuple[str, str], edge_bdl: Callable[..., Ran]) -> None:
    ran = edge_bdl("profile", MASKS, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("edge-bdl: argument ")


def test_a_page_that_cannot_be_written_is_bad_input(edge_bdl: Callable[..., Ran], tmp_path: Path) -> None:
    ran = edge_bdl(
        "profile", MASKS, "--engine", installed(), "--seconds", 0.05, "--html", tmp_path / "no" / "profile.html"
    )
    assert ran.code == 2
    assert "profile.html cannot be written" in ran.err
