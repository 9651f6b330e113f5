"""Recipe ``carracing``: imitate a scripted expert on simulated tracks, in clear weather only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.carracing.environment import STEPS_PER_SECOND, DrivingEnvironment
from edge_bdl_train.carracing.episodes import collect_closed_loop, collect_demonstrations
from edge_bdl_train.carracing.expert import Expert
from edge_bdl_train.carracing.weather import apply_weather
from edge_bdl_train.frames import CalibrationSets, LabelledFrames
from edge_bdl_train.held_out import HeldOut
from edge_bdl_train.imitation import ImitationConfig, imitate, steps_of
from edge_bdl_train.models import SmallCnn
from edge_bdl_train.preprocess import Preprocess
from edge_bdl_train.progress import Advance, Stage, silent
from edge_bdl_train.recipes.base import Recipe, seeded, steer_with
from edge_bdl_train.threads import one_thread

SHIPPED_CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "carracing.safetensors"

# Seeds of tracks. Each purpose has its own; those below 1,000 are nobody's, for demonstrations and tests.
TRAIN_SEEDS = range(1_000, 2_000)
VALIDATION_SEEDS = range(2_000, 3_000)
SELECTION_SEEDS = range(3_000, 4_000)
CALIBRATION_SEEDS = range(4_000, 5_000)
TEST_SEEDS = range(5_000, 6_000)

# Weather that no frame was recorded in, and its severity, for evaluation.
OUTSIDERS = {"fog": 0.5, "night": 0.7, "snow": 0.5}


@dataclass(frozen=True, kw_only=True)
class CarRacingConfig:
    """What the recipe may vary.

    Attributes:
        train_tracks: tracks the expert shows, one episode each.
        validation_tracks: the same, to judge by.
        demonstration_steps: steps of such an episode, 50 a second.
        keep_every: one frame of so many is kept.
        speeds: slowest and fastest speed of a demonstration, in units a second.
        steering_noise: standard deviation of what is added to the expert's steering, half of the time.
        target_speed: speed of the network's own drives, in units a second.
        drive_steps: steps of each of the two drives that the checkpoint's figures are of.
        selection_drives: number of demonstrations to select on, and steps of each.
        calibration_drives, test_drives: number of the network's own drives, and steps of each.
        dropout: rate of the three dropout layers.
        imitation: how to train.
    """

    train_tracks: int = 24
    validation_tracks: int = 2
    demonstration_steps: int = 500
    keep_every: int = 2
    speeds: tuple[float, float] = (10.0, 40.0)
    steering_noise: float = 0.3
    target_speed: float = 30.0
    drive_steps: int = 500
    selection_drives: tuple[int, int] = (40, 150)
    calibration_drives: tuple[int, int] = (24, 250)
    test_drives: tuple[int, int] = (4, 200)
    dropout: float = 0.2
    imitation: ImitationConfig = field(default_factory=lambda: ImitationConfig(epochs=8))


class CarRacingRecipe(Recipe):
    """Learns to drive CarRacing-v3 from its camera; calibrates on its own drives."""

    name = "carracing"
    config_type = CarRacingConfig
    config: CarRacingConfig

    def __init__(self, config: CarRacingConfig | None = None, data: Path | None = None) -> None:
        """Takes no ``data``: the simulator makes it."""
        if data is not None:
            raise InputError(f"recipe 'carracing' makes its own data: leave {data} out")
        super().__init__(config)

    @classmethod
    def quick_config(cls) -> CarRacingConfig:
        """A few seconds of driving and one epoch."""
        return CarRacingConfig(
            train_tracks=3,
            validation_tracks=1,
            demonstration_steps=200,
            drive_steps=100,
            selection_drives=(2, 60),
            calibration_drives=(2, 60),
            test_drives=(1, 40),
            imitation=ImitationConfig(epochs=1),
        )

    def build_model(self, seed: int) -> nn.Module:
        """The small CNN; the instruments in the lowest 12 of 96 rows, which give the steering away, are cut off."""
        return seeded(seed, lambda: SmallCnn(Preprocess((84, 96), crop_bottom=12), dropout=self.config.dropout))

    def demonstrations(self, seed: int, stage: Stage = silent) -> tuple[LabelledFrames, LabelledFrames]:
        """Frames to learn from and to judge by, of different tracks."""
        config, rng = self.config, np.random.default_rng(seed)
        environment = DrivingEnvironment()
        tracks = (TRAIN_SEEDS[: config.train_tracks], VALIDATION_SEEDS[: config.validation_tracks])
        advance = stage("the expert drives", sum(map(len, tracks)) * config.demonstration_steps)
        train, validation = (
            self._demonstrate(environment, seeds, config.demonstration_steps, rng, advance) for seeds in tracks
        )
        environment.close()
        return train, validation

    def _demonstrate(
        self,
        environment: DrivingEnvironment,
        seeds: range,
        steps: int,
        rng: np.random.Generator,
        advance: Advance,
        spread: bool = False,
    ) -> LabelledFrames:
        config = self.config
        return collect_demonstrations(
            environment,
            Expert(),
            seeds=seeds,
            steps=steps,
            keep_every=config.keep_every,
            speeds=config.speeds,
            noise=config.steering_noise,
            rng=rng,
            spread=spread,
            advance=advance,
        )

    def fit(self, model: nn.Module, seed: int, stage: Stage = silent) -> dict[str, float]:
        """Imitates the expert, then lets the network drive alone on tracks it has not seen."""
        config = self.config
        train, validation = self.demonstrations(seed, stage)
        advance = stage("the network learns", steps_of(train, config.imitation))
        generator = torch.Generator().manual_seed(seed)
        figures = imitate(model, train, validation, config.imitation, generator=generator, advance=advance)
        environment = DrivingEnvironment()
        with one_thread():
            _, drive = collect_closed_loop(
                environment,
                steer_with(model),
                seeds=VALIDATION_SEEDS[-2:],
                steps=config.drive_steps,
                target_speed=config.target_speed,
                expert=Expert(),
                advance=stage("the network drives", 2 * config.drive_steps),
            )
        environment.close()
        return {
            "train_frames": float(len(train)),
            **figures,
            "drive_steps": float(drive.steps),
            "drive_off_track_share": drive.off_track_share,
            "drive_max_distance": drive.max_distance,
            "drive_mean_speed": drive.mean_speed,
        }

    def calibration_sets(self, model: nn.Module, stage: Stage = silent) -> CalibrationSets:
        """Frames of clear weather, on tracks of their own for each set.

        Selection sees demonstrations, the way back to the middle of the road included: all that it should know.
        The others are the network's own drives, as far as it kept to the road: beyond that nothing is nominal. All
        begin anywhere on their tracks: drives from the starting line show its long left-hand bend again and again, and
        hardly ever a right-hand one, which a density then takes for something unheard of.
        """
        config = self.config
        environment = DrivingEnvironment()
        sets = (config.selection_drives, config.calibration_drives, config.test_drives)
        advance = stage("drives to calibrate on", sum(count * steps for count, steps in sets))

        def own_drives(seeds: range, drives: tuple[int, int]) -> LabelledFrames:
            with one_thread():
                frames, _ = collect_closed_loop(
                    environment,
                    steer_with(model),
                    seeds=seeds[: drives[0]],
                    steps=drives[1],
                    target_speed=config.target_speed,
                    expert=Expert(),
                    spread=True,
                    until_off_track=True,
                    advance=advance,
                )
            return frames

        count, steps = config.selection_drives
        rng = np.random.default_rng(SELECTION_SEEDS.start)
        selection = self._demonstrate(environment, SELECTION_SEEDS[:count], steps, rng, advance, spread=True)
        calibration = own_drives(CALIBRATION_SEEDS, config.calibration_drives)
        test = own_drives(TEST_SEEDS, config.test_drives)
        environment.close()
        return CalibrationSets(selection, calibration, test, period_s=1.0 / STEPS_PER_SECOND)

    def held_out(self, model: nn.Module, stage: Stage = silent) -> HeldOut:
        """The network's own drives on the test tracks; outsiders are the same frames in weather that it never saw."""
        sets = self.calibration_sets(model, stage)
        rng = np.random.default_rng(TEST_SEEDS.start)
        outsiders = {
            name: np.stack([apply_weather(name, frame, severity, rng) for frame in sets.test.frames])
            for name, severity in OUTSIDERS.items()
        }
        return HeldOut.of_steering(sets.selection, sets.test, outsiders)
