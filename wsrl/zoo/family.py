"""A family of architectures: variants of one kind of network, to train encoders on and to test them on."""

from dataclasses import dataclass

from wsrl.zoo.models import Classifier


@dataclass(frozen=True)
class Family:
    """Variants of one kind of network.

    Attributes:
        train: of the models that encoders are trained on.
        test: of the models that they are tested on.
    """

    train: tuple[Classifier, ...]
    test: tuple[Classifier, ...]

    @property
    def variants(self) -> tuple[Classifier, ...]:
        """All variants, those of `train` first, each once."""
        return tuple(dict.fromkeys(self.train + self.test))
