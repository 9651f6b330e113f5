"""`Runtime.predict`: frame in, prediction with its uncertainty out.

With the bank's own number of members the fused graph runs once. Any other number, and any deadline, goes through trunk
and head: the trunk once, the head in chunks for as long as members are asked for and there is time. A Gaussian head
always is one pass of the fused graph; samples of its logits come after it, and cost next to nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_bdl.engines import Engine, Held, open_engine
from edge_bdl.errors import EngineError, InputError
from edge_bdl.findings import Fidelity
from edge_bdl.gaussian_head import Moments, closed_form, draw, probit, read
from edge_bdl.manifest import DENSITY_OUTPUT, MEMBERS_OUTPUT, Manifest, TensorSpec
from edge_bdl.sampling import Members, Pace
from edge_bdl.uncertainty import Uncertainty, decompose

if TYPE_CHECKING:
    from edge_bdl.bundle import Bundle
    from edge_bdl.policy import Evidence

Frame = NDArray[Any] | Sequence[NDArray[Any]] | Mapping[str, NDArray[Any]]
StopReason = Literal["samples", "deadline"]

_FEWEST = 2  # members that a deadline leaves in any case: one has no spread
_HELD_CHUNKS = 64  # head chunks whose members stay in memory; later ones are made anew for every frame


class Prediction(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What the members say about one frame.

    Attributes:
        mean: Mean prediction: class probabilities before temperature, or targets.
        aleatoric: Nats, or squared target units; without the class axis.
        epistemic: Same shape and units. NaN for one sample.
        total: Their sum.
        density: Feature-space distance of the frame from the training frames; None where the bundle has none.
        samples: Members used; in closed form as many as asked for, for it is as good as any number.
        standard_error: Monte-Carlo standard error of `mean`: exact for independent members, an upper bound for balanced
            ones, 0 in closed form, NaN for less than two samples, None for selected members, which are no sample of
            anything: see `fidelity`.
        stop_reason: ``samples``: as many as asked for; ``deadline``: as many as there was time for.
        latency_ms: All of `Runtime.predict`.
        engine_ms: The engine's part of it.
        stages_ms: ``check``, ``fused`` or ``trunk`` and ``head``, ``uncertainty``.
        fault: Why the numbers mean nothing; None where they do.
        manifest: Of the bundle that predicted.
    """

    mean: NDArray[np.floating[Any]]
    aleatoric: NDArray[np.floating[Any]]
    epistemic: NDArray[np.floating[Any]]
    total: NDArray[np.floating[Any]]
    density: float | None
    samples: int
    standard_error: NDArray[np.floating[Any]] | None
    stop_reason: StopReason
    latency_ms: float
    engine_ms: float
    stages_ms: dict[str, float]
    fault: str | None
    manifest: Manifest

    @property
    def fidelity(self) -> Fidelity | None:
        """How close so many members come to the full posterior, as measured at export for the largest prefix used."""
        known = [entry for entry in self.manifest.fidelity if entry.samples <= self.samples]
        return max(known, key=lambda entry: entry.samples, default=None)

    def scores(self) -> dict[str, float]:
        """The manifest's scores as scalars, larger = worse; NaN where there is none."""
        values: dict[str, float] = {}
        for score in self.manifest.policy.scores:
            value = self.density if score.name == "density" else getattr(self, score.name)
            values[score.name] = math.nan if value is None else float(getattr(np, score.reduction)(value))
        return values

    def evidence(self, age_s: float = 0.0) -> Evidence:
        """What the policy is told.

        Args:
            age_s: Age of the frame now, seconds.
        """
        from edge_bdl.policy import Evidence

        scores = self.scores()
        fault = self.fault
        if fault is None and not all(map(math.isfinite, scores.values())):
            fault = f"not finite: {', '.join(name for name, value in scores.items() if not math.isfinite(value))}"
        return Evidence(scores=scores, samples=self.samples, age_s=age_s, fault=fault)

    def probabilities(self) -> NDArray[np.floating[Any]]:
        """Class probabilities at the temperature fitted for so many samples; `mean` where none was fitted.

        Raises:
            InputError: The task is not classification.
        """
        from edge_bdl.calibration import fitted_at, temper

        if self.manifest.class_axis is None or self.manifest.task != "classification":
            raise InputError(f"a {self.manifest.task} bundle has no class probabilities; use mean and interval()")
        temperature = fitted_at(self.manifest.calibration.temperature, self.samples)
        from_the_end = self.manifest.class_axis - len(self.manifest.output.shape)
        return self.mean if temperature is None else temper(self.mean, temperature, from_the_end)

    def interval(self) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
        """Lower and upper end of the 90 % interval of the targets, scaled as fitted for so many samples.

        Raises:
            InputError: The task is classification.
        """
        from edge_bdl.calibration import fitted_at, interval_half_width

        if self.manifest.task == "classification":
            raise InputError("a classification bundle has no intervals; use probabilities()")
        scale = fitted_at(self.manifest.calibration.interval_scale, self.samples)
        half_width = interval_half_width(self.total, 1.0 if scale is None else scale)
        return self.mean - half_width, self.mean + half_width


class Runtime:
    """One bundle on one engine, for one thread.

    Args:
        manifest: The bundle's manifest.
        engine: An open engine on the bundle.
        stored: The arrays of the bundle's bank.
        samples: Members per prediction where `predict` is not told; None: all of the bank.
        clock: Seconds, monotonic.

    Raises:
        InputError: `samples` is not possible.
    """

    def __init__(
        self,
        manifest: Manifest,
        engine: Engine,
        stored: Mapping[str, NDArray[Any]],
        *,
        samples: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.manifest = manifest
        self.engine = engine
        self._members = Members(manifest.form, manifest.bank, stored)
        self.samples = manifest.bank.members if samples is None else samples
        self._members.check(self.samples)
        self._clock = clock
        self._borders = [_Border(spec) for spec in manifest.inputs]
        self._boundary = [spec.name for spec in manifest.boundary]
        self._fused_held: Held | None = None
        self._chunks: dict[int, Held] = {}
        self._buffer = np.empty((0, *manifest.output.shape), np.float32)
        self._draws = np.empty((0, *manifest.output.shape), np.float32)
        self._head_pace = Pace()
        self._finish_pace = Pace()

    @classmethod
    def open(
        cls,
        bundle: str | PathLike[str] | Bundle,
        engine: str = "onnxruntime",
        threads: int = 1,
        samples: int | None = None,
        trusted_key: bytes | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        **options: Any,
    ) -> Runtime:
        """Verify a bundle and open it.

        Args:
            bundle: Its folder, or an open bundle.
            engine: A key of `edge_bdl.engines.ENGINES`.
            threads: Threads that the engine may use.
            samples: Members per prediction; None: all of the bank.
            trusted_key: Ed25519 public key that must have signed the bundle.
            clock: Seconds, monotonic.
            options: The engine's own.

        Raises:
            BundleError: The folder is not a sound bundle, or its signature is missing or wrong.
            InputError: An argument is not possible with this bundle.
            MissingExtraError: The engine's package is not installed.
            EngineError: The engine cannot load the bundle.
        """
        from edge_bdl.bundle import Bundle

        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(bundle, trusted_key)
        opened = open_engine(engine, bundle.folder, bundle.manifest, threads=threads, **options)
        return cls(bundle.manifest, opened, bundle.bank(), samples=samples, clock=clock)

    def predict(self, frame: Frame, samples: int | None = None, deadline_ms: float | None = None) -> Prediction:
        """Predict one frame.

        Args:
            frame: An array of the manifest's shape and dtype; for several inputs a mapping by name, or a sequence in
                the manifest's order. A first axis of 1 may be left out, and is then left out of the results.
            samples: Members to use; None: the runtime's. A mask bank and a Gaussian head go on with fresh ones past the
                bank's end. 0: class probabilities of a Gaussian head by the probit approximation, and no more.
            deadline_ms: Return within this time of the call, with the members that fit, but at least 2; a Gaussian head
                gives all of them. Call `warm_up(anytime=True)` first: loading graphs takes longer than most deadlines.

        Raises:
            InputError: The frame, the samples or the deadline are not what the bundle takes.
            EngineError: The engine failed.
        """
        clock = self._clock
        start = clock()
        samples = self.samples if samples is None else samples
        self._members.check(samples)
        if deadline_ms is not None and not (math.isfinite(deadline_ms) and deadline_ms > 0.0):
            raise InputError(f"deadline_ms must be positive and finite, got {deadline_ms}")
        inputs, bare = self._check(frame)
        checked = clock()
        stages_ms = {"check": (checked - start) * 1e3}
        used = samples
        if self.manifest.closed is not None:
            outputs = self.engine.graph("fused").run(inputs)
            inferred = clock()
            stages_ms["fused"] = (inferred - checked) * 1e3
            density = self._density_of(outputs)
            uncertainty, fault = self._integrate(read(self.manifest, outputs), samples)
        else:
            if deadline_ms is None and samples == self.manifest.bank.members:
                members, density = self._fused(inputs)
                stages_ms["fused"] = (clock() - checked) * 1e3
            else:
                until = math.inf if deadline_ms is None else start + deadline_ms * 1e-3
                members, density = self._anytime(inputs, samples, until, stages_ms)
            used = len(members)
            inferred = clock()
            uncertainty, fault = self._decompose(members)
        fault = fault or self._fault(density, uncertainty.total)
        if bare and self.manifest.output.shape[:1] == (1,):
            uncertainty = Uncertainty(*(array.reshape(array.shape[1:]) for array in uncertainty))
        end = clock()
        self._finish_pace.record(end - inferred)
        stages_ms["uncertainty"] = (end - inferred) * 1e3
        return Prediction(
            mean=uncertainty.mean,
            aleatoric=uncertainty.aleatoric,
            epistemic=uncertainty.epistemic,
            total=uncertainty.total,
            density=density,
            samples=used,
            standard_error=None if self.manifest.bank.selection == "selected" else uncertainty.standard_error,
            stop_reason="samples" if used == samples else "deadline",
            latency_ms=(end - start) * 1e3,
            engine_ms=(inferred - checked) * 1e3,
            stages_ms=stages_ms,
            fault=fault,
            manifest=self.manifest,
        )

    def warm_up(self, runs: int = 3, *, anytime: bool = False) -> None:
        """Predict black frames, so that graphs are loaded and memory is touched before the first real one.

        Args:
            runs: How many.
            anytime: Also load what predictions with a deadline need, and learn how long it takes.
        """
        blank = {border.name: np.zeros(border.shape, border.dtype) for border in self._borders}
        for _ in range(runs):
            self.predict(blank)
            if anytime and self.manifest.closed is None:
                self._anytime(blank, self.samples, math.inf, {})

    def _check(self, frame: Frame) -> tuple[dict[str, NDArray[Any]], bool]:
        """The frame by input name, and whether all leading axes were left out."""
        borders = self._borders
        if len(borders) == 1 and isinstance(frame, np.ndarray):
            array, bare = borders[0].admit(frame)
            return {borders[0].name: array}, bare
        if isinstance(frame, Mapping):
            if frame.keys() != {border.name for border in borders}:
                raise InputError(f"this bundle takes {_listed(borders)}, got inputs named {sorted(map(str, frame))}")
            frame = [frame[border.name] for border in borders]
        if not isinstance(frame, Sequence) or len(frame) != len(borders):
            raise InputError(f"this bundle takes {_listed(borders)}, got {type(frame).__name__}")
        admitted = [border.admit(array) for border, array in zip(borders, frame, strict=True)]
        arrays = {border.name: array for border, (array, _) in zip(borders, admitted, strict=True)}
        return arrays, all(bare for _, bare in admitted)

    def _fused(self, inputs: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], float | None]:
        graph = self.engine.graph("fused")
        count = self.manifest.bank.members
        if self._fused_held is None:
            self._fused_held = graph.hold(self._members.take(0, count))
        outputs = graph.run(inputs, self._fused_held)
        return self._members_of(outputs, count), self._density_of(outputs)

    def _anytime(
        self, inputs: dict[str, NDArray[Any]], samples: int, until: float, stages_ms: dict[str, float]
    ) -> tuple[NDArray[Any], float | None]:
        """Trunk, then head chunks until there are `samples` members or the next chunk would end after `until`."""
        clock, chunk = self._clock, self.manifest.bank.chunk
        began = clock()
        outputs = self.engine.graph("trunk").run(inputs)
        if not outputs.keys() >= set(self._boundary):
            raise EngineError(f"the trunk gave {sorted(outputs)}, expected {self._boundary}: export the bundle again")
        boundary = {name: outputs[name] for name in self._boundary}
        rows = -(-samples // chunk) * chunk
        if len(self._buffer) < rows:
            self._buffer = np.empty((rows, *self.manifest.output.shape), np.float32)
        now = trunk_end = clock()
        done = 0
        while done < samples:
            if done >= _FEWEST and now + self._head_pace.estimate_s + self._finish_pace.estimate_s > until:
                break
            more = self._head(done // chunk, boundary)
            self._buffer[done : done + len(more)] = more
            done += len(more)
            before, now = now, clock()
            self._head_pace.record(now - before)
        stages_ms["trunk"], stages_ms["head"] = (trunk_end - began) * 1e3, (now - trunk_end) * 1e3
        return self._buffer[: min(done, samples)], self._density_of(outputs)

    def _head(self, index: int, boundary: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The members of one chunk; the last one is shorter where graphs hold the members themselves."""
        bank = self.manifest.bank
        if bank.built_in:
            outputs = self.engine.graph(bank.heads[index]).run(boundary)
            return self._members_of(outputs, min(bank.chunk, bank.members - index * bank.chunk))
        return self._members_of(self.engine.graph("head").run(boundary, self._held_chunk(index)), bank.chunk)

    def _held_chunk(self, index: int) -> Held:
        held = self._chunks.get(index)
        if held is None:
            chunk = self.manifest.bank.chunk
            held = self.engine.graph("head").hold(self._members.take(index * chunk, chunk))
            if index < _HELD_CHUNKS:
                self._chunks[index] = held
        return held

    def _members_of(self, outputs: Mapping[str, NDArray[Any]], count: int) -> NDArray[Any]:
        members = outputs.get(MEMBERS_OUTPUT)
        expected = (count, *self.manifest.output.shape)
        if members is None or members.shape != expected:
            got = "nothing of that name" if members is None else members.shape
            raise EngineError(f"the engine must return members of shape {expected}, got {got}: export the bundle again")
        return members

    def _density_of(self, outputs: Mapping[str, NDArray[Any]]) -> float | None:
        density = outputs.get(DENSITY_OUTPUT)
        return None if density is None else float(density.flat[0])

    def _decompose(self, members: NDArray[Any]) -> tuple[Uncertainty, str | None]:
        """What the members say, and why it means nothing."""
        manifest, finite = self.manifest, _finite(members)
        uncertainty = decompose(
            manifest.task,
            # One bad number makes all of them NaN: half a prediction is none.
            members if finite else np.full_like(members, np.nan),
            weights=self._members.weights(len(members)),
            unbiased=manifest.bank.unbiased,
            class_axis=manifest.class_axis,
        )
        if not finite:
            return uncertainty, "the engine returned members that are not finite"
        if len(members) < _FEWEST:
            return uncertainty, "one sample says nothing about epistemic uncertainty"
        if _identical(members):
            return uncertainty, f"all {len(members)} members are identical"
        return uncertainty, None

    def _integrate(self, moments: Moments, samples: int) -> tuple[Uncertainty, str | None]:
        """What Gaussian outputs say, and why it means nothing."""
        finite = moments.finite
        if not finite:
            moments = Moments(*(np.full_like(values, np.nan) for values in moments))
        if self.manifest.task != "classification":
            uncertainty = closed_form(self.manifest, moments)
            certain = finite and not uncertainty.epistemic.any()
            fault = "the outputs have no variance" if certain else None
        elif samples and finite:
            uncertainty, fault = self._decompose(draw(moments, self._normal_draws(samples)))
        else:
            uncertainty = probit(moments, self.manifest.class_axis or 0)
            fault = "without samples the epistemic uncertainty is not known"
        return uncertainty, fault if finite else "the engine returned moments that are not finite"

    def _normal_draws(self, samples: int) -> NDArray[np.float32]:
        """The same draws for every frame, made once."""
        if len(self._draws) < samples:
            (self._draws,) = self._members.take(0, samples).values()
        return self._draws[:samples]

    def _fault(self, density: float | None, total: NDArray[Any]) -> str | None:
        if self.manifest.has_density and (density is None or not math.isfinite(density)):
            return "the density is missing or not finite"
        if not math.isfinite(total.max()):
            return "the uncertainty is not finite"
        return None


class _Border:
    """One frame input and what it must look like."""

    def __init__(self, spec: TensorSpec) -> None:
        self.name, self.shape, self.dtype = spec.name, spec.shape, np.dtype(spec.dtype)
        self._bare_shape = spec.shape[1:] if spec.shape[:1] == (1,) else None
        self._floating = np.issubdtype(self.dtype, np.inexact)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {list(self.shape)}"

    def admit(self, array: Any) -> tuple[NDArray[Any], bool]:
        """The array with all its axes, and whether the first had been left out."""
        if not isinstance(array, np.ndarray):
            raise InputError(f"expected a numpy array for {self}, got {type(array).__name__}")
        bare = array.shape != self.shape
        if (bare and array.shape != self._bare_shape) or array.dtype != self.dtype:
            raise InputError(f"expected {self}, got {array.dtype} {list(array.shape)}")
        if self._floating and not _finite(array):
            raise InputError(f"expected finite numbers for {self}, got {_count_bad(array)} that are not")
        return (array.reshape(self.shape) if bare else array), bare


def _finite(array: NDArray[Any]) -> bool:
    # One pass through BLAS clears almost every array; only a suspicious sum is looked at element by element.
    return math.isfinite(abs(np.vdot(array, array))) or bool(np.isfinite(array).all())


def _identical(members: NDArray[Any]) -> bool:
    # The first number of two members tells almost every frame's members apart.
    return bool(members.item(0) == members.item(members[0].size)) and not (members[1:] != members[0]).any()


def _count_bad(array: NDArray[Any]) -> int:
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def _listed(borders: Sequence[_Border]) -> str:
    return ", ".join(map(str, borders))
