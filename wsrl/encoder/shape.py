"""The sizes and settings of an encoder of functions, for whoever computes by it, in JAX or without."""

from dataclasses import dataclass


@dataclass
class EncoderShape:
    """What an encoder is made of beside its parameters.

    Attributes:
      probes: learned inputs, swept forward.
      input_shape: [height, width, channels] of the learned inputs; networks of other shapes get them resized.
      dim: of the embedding.
      rank: components of the responses that the read-out takes products of.
      evidence, template: weights of log probabilities and of templates beside probabilities; zero leaves them out.
      smoothing: of the projection to what the classes' responses span, above 0; see `second_order` of the read-out.
      gradient_probes: the first of the learned inputs, which are also swept backward, for templates.
      blur: standard deviation of the blur of templates, in pixels.
      chunk: learned inputs swept at a time in JAX; small enough for the states to stay in cache.
      dtype: of the sweeps.
    """

    probes: int = 128
    input_shape: tuple[int, int, int] = (16, 16, 1)
    dim: int = 128
    rank: int = 64
    evidence: float = 0.5
    template: float = 0.5
    smoothing: float = 0.1
    gradient_probes: int = 64
    blur: float = 0.8
    chunk: int = 8
    dtype: str = "float32"

    @property
    def response_size(self) -> int:
        """Numbers that tell what a class answers."""
        pixels = self.input_shape[0] * self.input_shape[1]
        return self.probes * (1 + (self.evidence != 0)) + pixels * (self.template != 0)

    @property
    def pulled(self) -> int:
        """Learned inputs that are swept backward: whole chunks."""
        return -(-self.gradient_probes // self.chunk) * self.chunk
