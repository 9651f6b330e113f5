"""Recipe ``adversarial``: does a network that is led astray at least become unsure?

Test digits are changed by FGSM and PGD, within larger and larger radii, so that the network errs, and every uncertainty
score is taken of the changed images. The attacker knows the weights and the very members that answer, which is the most
that one can know. Beside it, noise of the same size: +radius or -radius at every pixel, by the toss of a coin.

A second picture shows the saliency of the members' disagreement: at which pixels the network's doubt hangs.

This is a measurement, not a defence: a score that rises here has only withstood an attacker who did not aim at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.attacks import averaged_nll, fgsm, pgd
from edge_bdl_train.canvas import Canvas
from edge_bdl_train.data.idx import CLASSES, LabelledImages
from edge_bdl_train.data.mnist import load_mnist
from edge_bdl_train.evaluation.density import FeatureDensity, features_of
from edge_bdl_train.evaluation.ood import separation
from edge_bdl_train.evaluation.scores import class_scores
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.methods import dropout, ensemble, point
from edge_bdl_train.posterior import Member, Posterior
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.fitting import Contender
from edge_bdl_train.recipes.study import Figure, Study
from edge_bdl_train.saliency import mutual_information, saliency
from edge_bdl_train.threads import one_thread

ATTACKS = ("noise", "FGSM", "PGD")
_PGD_STEPS = 10
_BATCH = 128
_KNOWN = 2_000
"""Training images that the feature density is fitted on."""


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """What the study may vary.

    Attributes:
        images: to train on; all 60,000 when None.
        epochs: of every network.
        test: images that are attacked.
        radii: by how much a pixel may change, of its range [0, 1]; the first is 0.
        members: draws from each posterior, as far as it has so many.
        methods: labels of those to run.
    """

    images: int | None = 10_000
    epochs: int = 5
    test: int = 300
    radii: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
    members: int = 10
    methods: tuple[str, ...] = ("point", "dropout", "ensemble")

    def __post_init__(self) -> None:
        """Checks ranges and names."""
        if min(self.epochs, self.test) < 1 or self.members < 2:
            raise InputError(f"epochs and test must be at least 1 and members at least 2, got {self}")
        if len(self.radii) < 2 or self.radii[0] != 0.0 or list(self.radii) != sorted(set(self.radii)):
            raise InputError(f"radii must rise from 0, got {self.radii}")
        known = [each.label for each in contenders(1)]
        if not self.methods or set(self.methods) - set(known):
            raise InputError(f"methods must be some of {', '.join(known)}, got {self.methods}")


class Answer(NamedTuple):
    """What a network says of images.

    Attributes:
        accuracy: share of them that are told rightly.
        scores: uncertainties [N] by name.
    """

    accuracy: float
    scores: Mapping[str, Tensor]


class AdversarialStudy(Study):
    """A point estimate, dropout and an ensemble under attack."""

    name = "adversarial"
    config_type = AdversarialConfig
    config: AdversarialConfig

    @classmethod
    def quick_config(cls) -> AdversarialConfig:
        """Hardly trained, few images."""
        return AdversarialConfig(images=1_000, epochs=1, test=40, radii=(0.0, 0.1), members=3, methods=("dropout",))

    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """See the class."""
        train, test = load_mnist()
        rng = np.random.default_rng(seed)
        data = tensors(train, rng.permutation(len(train.labels))[: self.config.images])
        attacked = tensors(test, rng.permutation(len(test.labels))[: self.config.test])
        answers = {}
        for contender in contenders(self.config.epochs):
            if contender.label not in self.config.methods:
                continue
            posterior = contender.fit(network, Categorical(CLASSES), data, batch_size=_BATCH, seed=seed, stage=stage)
            with one_thread():
                known = data[0][:_KNOWN]
                answers[contender.label] = self.attack(posterior, known, attacked, seed, stage, contender.label)
                members = self._members(posterior, seed)
                if len(members) > 1:
                    draw_saliency(out / f"saliency-{contender.label}.png", posterior, members, *attacked)
        draw_scores(out / "adversarial.png", self.config.radii, answers)
        return [figure for label, found in answers.items() for figure in self._figures(label, found)]

    def attack(
        self, posterior: Posterior, known: Tensor, attacked: tuple[Tensor, Tensor], seed: int, stage: Stage, label: str
    ) -> dict[str, list[Answer]]:
        """The answers to every attack at every radius."""
        members = self._members(posterior, seed)
        density = FeatureDensity(features_of(posterior.network, known))
        loss = averaged_nll(posterior, members, attacked[1])
        advance = stage(f"{label} under attack", len(ATTACKS) * len(self.config.radii))
        answers: dict[str, list[Answer]] = {}
        for attack in ATTACKS:
            answers[attack] = []
            for radius in self.config.radii:
                moved = _moved(attack, loss, attacked[0], radius, torch.Generator().manual_seed(seed))
                answers[attack].append(answer(posterior, members, density, moved, attacked[1]))
                advance()
        return answers

    def _members(self, posterior: Posterior, seed: int) -> list[Member]:
        if posterior.kind == "point":
            return posterior.sample(torch.Generator(), 1)
        wanted = min(self.config.members, posterior.size or self.config.members)
        return posterior.sample(torch.Generator().manual_seed(seed), wanted)

    def _figures(self, label: str, answers: Mapping[str, Sequence[Answer]]) -> list[Figure]:
        """Accuracy, and how each score tells attacked from untouched images, next to 0.1 and at the largest radius."""
        radii = self.config.radii
        near = 1 + int(np.argmin(np.abs(np.array(radii[1:]) - 0.1)))
        figures = [Figure(what=f"{label}: accuracy, untouched", values=(answers["FGSM"][0].accuracy,), better="higher")]
        for place in sorted({near, len(radii) - 1}):
            for attack, found in answers.items():
                at = f"{label}, {attack} {radii[place]:g}"
                figures.append(Figure(what=f"{at}: accuracy", values=(found[place].accuracy,), better="higher"))
                for score, values in found[place].scores.items():
                    auroc = separation(found[0].scores[score], values).auroc
                    figures.append(Figure(what=f"{at}: AUROC of {score}", values=(auroc,), better="higher"))
        return figures


def contenders(epochs: int) -> list[Contender]:
    """A point estimate, Monte-Carlo dropout and a deep ensemble."""
    return [
        Contender(label="point", method="point", config=point.Config(), epochs=epochs),
        Contender(label="dropout", method="dropout", config=dropout.Config(), dropout=0.3, epochs=epochs),
        Contender(label="ensemble", method="ensemble", config=ensemble.Config(members=5), epochs=epochs),
    ]


def network(rate: float) -> nn.Sequential:
    """Two convolutions and a hidden layer; dropout before both linear layers where a rate is given."""
    hidden = [nn.Dropout(rate)] if rate > 0.0 else []
    last = [nn.Dropout(rate)] if rate > 0.0 else []
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *hidden,
        nn.Linear(800, 128),
        nn.ReLU(),
        *last,
        nn.Linear(128, CLASSES),
    )


def tensors(part: LabelledImages, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Pixels [N, 1, 28, 28] in [0, 1], and labels [N]."""
    pixels = part.images[rows, None].astype(np.float32) / 255.0
    return torch.from_numpy(pixels), torch.from_numpy(part.labels[rows])


def noisy(x: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Every pixel brighter or darker by the radius, within [0, 1]."""
    signs = 2.0 * torch.randint(2, x.shape, generator=generator) - 1.0
    return (x + radius * signs).clamp(0.0, 1.0)


def answer(
    posterior: Posterior, members: Sequence[Member], density: FeatureDensity, x: Tensor, labels: Tensor
) -> Answer:
    """Accuracy and every score, of these members."""
    logits = torch.stack([posterior.answer(x, member) for member in members])
    probabilities = torch.softmax(logits.double(), -1)
    right = probabilities.mean(0).argmax(-1) == labels
    scores = class_scores(probabilities, logits.double())
    scores["density"] = density(features_of(posterior.network, x))
    return Answer(float(right.double().mean()), scores)


def draw_scores(path: Path, radii: Sequence[float], answers: Mapping[str, Mapping[str, Sequence[Answer]]]) -> None:
    """One row per method: accuracy, then the mean of each score, by radius."""
    names = ("total", "epistemic", "max_probability", "energy", "density")
    canvas = Canvas(len(answers), 1 + len(names), panel=(3.0, 2.6))
    for row, (label, attacks) in enumerate(answers.items()):
        for attack, found in attacks.items():
            own = canvas.axes[row * (1 + len(names)) :]
            own[0].plot(radii, [each.accuracy for each in found], label=attack)
            own[0].set(title=f"{label}: accuracy", xlabel="radius", ylim=(-0.02, 1.02))
            for axes, name in zip(own[1:], names, strict=False):
                if name in found[0].scores:
                    axes.plot(radii, [float(each.scores[name].mean()) for each in found], label=attack)
                    axes.set(title=f"{label}: {name}", xlabel="radius")
    canvas.axes[0].legend()
    canvas.save(path)


def draw_saliency(path: Path, posterior: Posterior, members: Sequence[Member], x: Tensor, labels: Tensor) -> None:
    """The images that the members disagree about most: image, and where the doubt rises (red) and falls (blue)."""
    with torch.no_grad():
        logits = torch.stack([posterior.answer(x, member) for member in members])
    doubt = mutual_information(logits)
    shown = doubt.argsort(descending=True)[:8]
    maps = saliency(posterior, members, x[shown], mutual_information)
    guessed = torch.softmax(logits, -1).mean(0).argmax(-1)
    canvas = Canvas(2, len(shown), panel=(2.0, 2.2))
    for column, (row, heat) in enumerate(zip(shown.tolist(), maps[:, 0].numpy(), strict=True)):
        picture = x[row, 0].numpy()
        image, over = canvas.axes[column], canvas.axes[len(shown) + column]
        largest = float(np.abs(heat).max())
        image.imshow(picture, cmap="gray")
        image.set(title=f"{labels[row]}, taken for {guessed[row]}\n{doubt[row]:.2f} nats", xticks=[], yticks=[])
        over.imshow(picture, cmap="gray", alpha=0.3)
        over.imshow(heat, cmap="seismic", alpha=0.8, vmin=-largest, vmax=largest)
        over.set(xticks=[], yticks=[])
    canvas.save(path)


def _moved(attack: str, loss: Any, x: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    if radius == 0.0:
        return x
    if attack == "noise":
        return noisy(x, radius, generator)
    if attack == "FGSM":
        return fgsm(loss, x, radius)
    return pgd(loss, x, radius, step=2.5 * radius / _PGD_STEPS, steps=_PGD_STEPS, generator=generator)
