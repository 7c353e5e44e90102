"""What follows an operation before the next one, as facts of it: activations, pooling, and what is not understood."""

from wsrl.wiring.wiring import Fact, Value

GLOBAL = "global average"


class Following:
    """Collects what follows one operation, in the order in which it follows.

    Attributes:
      facts: see `Operation`; `activation` is `none` where nothing of the kind was seen.
    """

    def __init__(self, source: str, activation: Fact | None = None):
        """See the class.

        Args:
          source: of the facts.
          activation: that the operation itself applies, if it says so.
        """
        self.source = source
        self.facts: dict[str, Fact] = {"activation": activation} if activation else {}

    def activate(self, activation: str) -> None:
        """An activation is applied, to what was pooled if anything was."""
        name = "pooled_activation" if "pooling" in self.facts else "activation"
        pooled = self.facts["pooling"].value if "pooling" in self.facts else None
        if name in self.facts or pooled == GLOBAL:
            self.stop(f"a second {activation}")
        else:
            self._say(name, activation)

    def pool(self, kind: str, window: Value = None, stride: Value = None, padding: Value = None) -> None:
        """Windows are pooled.

        Args:
          kind: `max`, `average`, `global average` or another word.
          window, stride: [height, width].
          padding: (before, before, after, after), `same` or `valid`.
        """
        if "pooling" in self.facts:
            self.stop(f"a second pooling, {kind}")
            return
        self._say("pooling", kind)
        if window is not None:
            self._say("window", window)
            self._say("pooling_stride", stride)
            self._say("pooling_padding", padding)

    def add(self, activation: str) -> None:
        """It is added to others, and an activation, or `none`, is applied to the sum."""
        if "pooling" in self.facts:
            self.stop("a sum of pooled maps")
        self._say("sum_activation", activation)

    def flatten(self, order: str) -> None:
        """Maps are flattened, `channels first` or `channels last`."""
        self._say("flattened", order)

    def stop(self, word: str) -> None:
        """Something follows that is none of these."""
        self.facts.setdefault("followed_by", Fact(word, self.source))

    def _say(self, name: str, value: Value) -> None:
        self.facts[name] = Fact(value, self.source)
