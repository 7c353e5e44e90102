"""Architectures of the zoo: small Flax modules from images [batch, 16, 16, 1] to logits [batch, classes].

Convolutions pad explicitly, by one pixel on each side for a 3 x 3 kernel, as PyTorch's padding=1 does;
JAX's "SAME" pads even sizes on one side only when the stride is 2.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MOMENTUM = 0.9  # of the batch normalization
Images = Float[Any, "batch height width channels"]  # NumPy or JAX
Logits = Float[Array, "batch classes"]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "gelu": lambda x: nn.gelu(x, approximate=True),
    "silu": nn.silu,
    "leaky_relu": nn.leaky_relu,  # slope 0.01
}


def patch_convolution(
    images: Images,
    kernel: Float[Any, "rows columns channels features"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **_: object,
) -> Float[Array, "batch out_height out_width features"]:
    """Convolve as one matrix product of the kernel with all patches.

    Stands in for lax.conv_general_dilated (no dilation, one feature group), which under vmap over models
    becomes a grouped convolution, five times slower on CPU. The batch is the innermost axis, and strided
    rows and columns are split off by a reshape, so that every copy, forward and backward, is contiguous.
    """
    rows, columns, channels, features = kernel.shape
    batch, height, width = images.shape[:3]
    (row_stride, column_stride), (row_pad, column_pad) = window_strides, padding
    out_height = (height + sum(row_pad) - rows) // row_stride + 1
    out_width = (width + sum(column_pad) - columns) // column_stride + 1
    row_fill = -(height + sum(row_pad)) % row_stride
    column_fill = -(width + sum(column_pad)) % column_stride
    x = jnp.pad(
        images.transpose(3, 1, 2, 0),
        ((0, 0), (row_pad[0], row_pad[1] + row_fill), (column_pad[0], column_pad[1] + column_fill), (0, 0)),
    )
    x = x.reshape(channels, x.shape[1] // row_stride, row_stride, x.shape[2] // column_stride, column_stride, batch)
    phases = [
        [phase[:, :, 0, :, 0] for phase in jnp.split(row, column_stride, 4)] for row in jnp.split(x, row_stride, 2)
    ]
    patches = jnp.concatenate(
        [
            phases[i % row_stride][j % column_stride][
                :,
                i // row_stride : i // row_stride + out_height,
                j // column_stride : j // column_stride + out_width,
            ]
            for i in range(rows)
            for j in range(columns)
        ]
    )  # [rows * columns * channels, out_height, out_width, batch]
    y = kernel.reshape(-1, features).T @ patches.reshape(rows * columns * channels, -1)
    return y.reshape(features, out_height, out_width, batch).transpose(3, 1, 2, 0)


def conv(features: int, stride: int, size: int = 3, use_bias: bool = True, padded: bool = True) -> nn.Conv:
    """Square convolution with symmetric padding that keeps the size at stride 1, or with none."""
    pad = (size // 2, size // 2) if padded else (0, 0)
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=(pad, pad),
        use_bias=use_bias,
        conv_general_dilated=patch_convolution,
    )


def pool_windows(x: Float[Array, "batch height width channels"], pooling: str) -> jax.Array:
    """The largest or mean value of each 2 x 2 window; the gradient of JAX's own windows takes far longer on CPU."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    windows = x[:, : 2 * height, : 2 * width].reshape(len(x), height, 2, width, 2, x.shape[3])
    return windows.max((2, 4)) if pooling == "max" else windows.mean((2, 4))


def batch_norm(train: bool) -> nn.BatchNorm:
    """Batch normalization whose averages settle within a few dozen steps."""
    return nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM)


class Classifier(nn.Module):
    """What the architectures share.

    Calls take `train` (batch statistics and dropout are on) and `dropout`, the rate before the head, which
    may be a traced scalar; training draws its mask from the rng `dropout`.
    """

    activation: str = "relu"
    num_classes: int = 5
    image_size: int | None = None  # pixels a side that images are resized to; None takes them as they are
    pixels: tuple[float, float] = (1.0, 0.0)  # factor and offset of pixels from -1 to 1: not all recipes scale them so
    conv_strides = ()  # of the convolutions, in order of the forward pass
    pooling = "none"  # kind of the 2 x 2 windows behind convolutions
    heads = None  # number of attention heads

    def seen(self, x: Images) -> Float[Any, "batch rows columns channels"]:
        """Images as the recipe of the model feeds them."""
        if self.image_size not in (None, x.shape[1]):
            x = jax.image.resize(x, (len(x), self.image_size, self.image_size, x.shape[3]), "linear")
        return x if self.pixels == (1.0, 0.0) else self.pixels[0] * x + self.pixels[1]

    def act(self, x: jax.Array) -> jax.Array:
        """Apply the activation."""
        return ACTIVATIONS[self.activation](x)

    def head(self, x: Float[Array, "batch d"], train: bool, dropout: float | jax.Array) -> Logits:
        """Dropout and the last linear layer."""
        if train:
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - dropout, x.shape)
            x = jnp.where(kept, x / (1 - dropout), 0)
        return nn.Dense(self.num_classes)(x)


class MLP(Classifier):
    """Multi-layer perceptron."""

    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, x: Images, train: bool = False, dropout: float | jax.Array = 0.0) -> Logits:
        """Logits of images."""
        x = self.seen(x).reshape(len(x), -1)
        for width in self.widths:
            x = self.act(nn.Dense(width)(x))
        return self.head(x, train, dropout)


class CNNGap(Classifier):
    """Convolutions and global average pooling.

    Widths (16, 16, 16) with strides of 2 and 10 classes are the 4,970 parameters of the Small CNN Zoo
    (Unterthiner et al., "Predicting Neural Network Accuracy from Weights", 2020).
    """

    widths: tuple[int, ...] = (16, 16, 16)
    conv_strides: tuple[int, ...] = (2, 2, 2)

    @nn.compact
    def __call__(self, x: Images, train: bool = False, dropout: float | jax.Array = 0.0) -> Logits:
        """Logits of images."""
        x = self.seen(x)
        for width, stride in zip(self.widths, self.conv_strides, strict=True):
            x = self.act(conv(width, stride)(x))
        return self.head(x.mean((1, 2)), train, dropout)


class CNNFlatten(Classifier):
    """Convolutions with batch normalization, flattened into a hidden dense layer."""

    widths: tuple[int, ...] = (8, 16)
    conv_strides: tuple[int, ...] = (2, 2)
    hidden: int = 32
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool = False, dropout: float | jax.Array = 0.0) -> Logits:
        """Logits of images."""
        x = self.seen(x)
        for width, stride in zip(self.widths, self.conv_strides, strict=True):
            x = self.act(batch_norm(train)(conv(width, stride, use_bias=self.use_bias)(x)))
        x = self.act(nn.Dense(self.hidden)(x.reshape(len(x), -1)))
        return self.head(x, train, dropout)


class CNNPooled(Classifier):
    """Convolutions of stride 1 with 2 x 2 windows pooled behind them, as most tutorials have it (LeCun et al., 1998).

    Behind the last one come the mean over its map, where that is not pooled, or the map as it is and a hidden layer.
    """

    widths: tuple[int, ...] = (8, 16)
    pooling: str = "max"  # or mean
    pooled: tuple[bool, ...] = (True, True)  # of each convolution
    kernel: int = 3
    padded: bool = True  # by half the kernel, else not at all
    norm: bool = False  # batch normalization behind each convolution
    hidden: int = 32  # 0 for none

    @property
    def conv_strides(self) -> tuple[int, ...]:
        """All are 1."""
        return (1,) * len(self.widths)

    @nn.compact
    def __call__(self, x: Images, train: bool = False, dropout: float | jax.Array = 0.0) -> Logits:
        """Logits of images."""
        x = self.seen(x)
        for width, pooled in zip(self.widths, self.pooled, strict=True):
            x = conv(width, 1, self.kernel, use_bias=not self.norm, padded=self.padded)(x)
            x = self.act(batch_norm(train)(x) if self.norm else x)
            x = pool_windows(x, self.pooling) if pooled else x
        if not self.pooled[-1]:
            return self.head(x.mean((1, 2)), train, dropout)
        x = x.reshape(len(x), -1)
        return self.head(self.act(nn.Dense(self.hidden)(x)) if self.hidden else x, train, dropout)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut (He et al., "Deep Residual Learning", 2016)."""

    features: int
    stride: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [batch, h, w, channels] to [batch, h / stride, w / stride, features]."""
        act = ACTIVATIONS[self.activation]
        y = act(batch_norm(train)(conv(self.features, self.stride, use_bias=False)(x)))
        y = batch_norm(train)(conv(self.features, 1, use_bias=False)(y))
        if x.shape != y.shape:
            x = batch_norm(train)(conv(self.features, self.stride, size=1, use_bias=False)(x))
        return act(x + y)


class ResNet(Classifier):
    """Stem, residual blocks and global average pooling."""

    widths: tuple[int, ...] = (8, 8, 16)  # of the stem and of each block
    block_strides: tuple[int, ...] = (2, 1, 2)  # of the stem and of each block

    @property
    def conv_strides(self) -> tuple[int, ...]:
        """Strides of all convolutions in order of the forward pass, a block's shortcut last."""
        strides = [self.block_strides[0]]
        for before, width, stride in zip(self.widths, self.widths[1:], self.block_strides[1:], strict=False):
            strides += [stride, 1] + [stride] * (before != width or stride != 1)
        return tuple(strides)

    @nn.compact
    def __call__(self, x: Images, train: bool = False, dropout: float | jax.Array = 0.0) -> Logits:
        """Logits of images."""
        x = self.seen(x)
        x = self.act(batch_norm(train)(conv(self.widths[0], self.block_strides[0], use_bias=False)(x)))
        for width, stride in zip(self.widths[1:], self.block_strides[1:], strict=True):
            x = ResidualBlock(width, stride, self.activation)(x, train)
        return self.head(x.mean((1, 2)), train, dropout)


class RNN(Classifier):
    """Elman network that reads an image row by row; the head reads the last state (Elman, 1990)."""

    widths: tuple[int, ...] = (32,)  # of each layer's state

    @nn.compact
    def __call__(self, x: Images, train: bool = False, dropout: float | jax.Array = 0.0) -> Logits:
        """Logits of images."""
        x = self.seen(x)
        x = x.reshape(*x.shape[:2], -1)
        for width in self.widths:
            x = nn.RNN(nn.SimpleCell(width, activation_fn=ACTIVATIONS[self.activation]))(x)
        return self.head(x[:, -1], train, dropout)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron, each with a residual."""

    heads: int
    activation: str
    mlp_ratio: int = 2

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens d"]) -> Float[Array, "batch tokens d"]:
        """Map tokens to tokens."""
        x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
        y = nn.Dense(self.mlp_ratio * x.shape[-1])(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(ACTIVATIONS[self.activation](y))


class ViT(Classifier):
    """Vision transformer on patches, mean over tokens (Dosovitskiy et al., 2021)."""

    widths: tuple[int, ...] = (16,)  # of each block; all equal
    heads: int = 2
    patch: tuple[int, int] = (4, 4)  # (height, width) in pixels

    @property
    def conv_strides(self) -> tuple[int, ...]:
        """Stride down the image."""
        return self.patch[:1]

    @nn.compact
    def __call__(self, x: Images, train: bool = False, dropout: float | jax.Array = 0.0) -> Logits:
        """Logits of images."""
        no_padding = ((0, 0), (0, 0))
        embed = nn.Conv(self.widths[0], self.patch, self.patch, no_padding, conv_general_dilated=patch_convolution)
        x = embed(self.seen(x)).reshape(len(x), -1, self.widths[0])
        x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for _ in self.widths:
            x = TransformerBlock(self.heads, self.activation)(x)
        return self.head(nn.LayerNorm()(x).mean(1), train, dropout)


class SequenceTransformer(ViT):
    """Transformer on the rows of an image, a token each (Vaswani et al., "Attention Is All You Need", 2017)."""

    patch: tuple[int, int] = (1, 16)
