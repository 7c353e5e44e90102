"""Which architectures a zoo draws from: catalogues of families, each a few variants of one kind of network.

A variant is one compiled training program, so there are few; widths, depths and activations vary inside every family.
Deep variants are narrow, and transformers at most four blocks deep: a block is seven levels of a sweep to compile.
"""

from collections.abc import Sequence

from wsrl.zoo.diverse_families import DIVERSE
from wsrl.zoo.family import Family
from wsrl.zoo.models import MLP, RNN, Classifier, CNNFlatten, CNNGap, ResNet, SequenceTransformer, ViT


def _same(*variants: Classifier) -> Family:
    """Trains and tests on the same variants."""
    return Family(variants, variants)


MAIN = {
    "mlp": _same(
        MLP("relu", widths=(64, 64)),
        MLP("tanh", widths=(32, 32, 32)),
        MLP("gelu", widths=(96,)),
    ),
    "cnn_gap": _same(
        CNNGap("relu", widths=(16, 16, 16), conv_strides=(2, 2, 2)),
        CNNGap("tanh", widths=(12, 16, 24, 24), conv_strides=(2, 2, 1, 2)),
        CNNGap("gelu", widths=(8, 16, 24), conv_strides=(1, 2, 2)),
    ),
    "cnn_flatten": _same(
        CNNFlatten("relu", widths=(8, 16), conv_strides=(2, 2), hidden=32),
        CNNFlatten("tanh", widths=(12, 12), conv_strides=(2, 2), hidden=24, use_bias=True),
        CNNFlatten("gelu", widths=(8, 16, 16), conv_strides=(2, 2, 2), hidden=32),
    ),
    "resnet": _same(
        ResNet("relu", widths=(8, 8, 16), block_strides=(2, 1, 2)),
        ResNet("tanh", widths=(12, 12), block_strides=(2, 1)),
        ResNet("gelu", widths=(8, 16), block_strides=(2, 2)),
    ),
    "vit": _same(
        ViT("relu", widths=(16, 16)),
        ViT("tanh", widths=(16,)),
        ViT("gelu", widths=(24,)),
    ),
}

# No test variant has a width of one that is trained on; each family has one whose depth is not trained on either.
# The perceptrons' and the convolutional networks' widest are 256, where the training variants' end at 96 and 48.
WIDE = {
    "mlp": Family(
        train=(
            MLP("relu", widths=(16, 16)),
            MLP("leaky_relu", widths=(48,) * 4),
            MLP("silu", widths=(96,)),
            MLP("gelu", widths=(64,) * 3),
            MLP("tanh", widths=(24,) * 12),
        ),
        test=(
            MLP("relu", widths=(256, 256)),
            MLP("tanh", widths=(128,) * 5),
        ),
    ),
    "cnn_gap": Family(
        train=(
            CNNGap("relu", widths=(16, 16, 16), conv_strides=(2, 2, 2)),
            CNNGap("gelu", widths=(12, 16, 24, 24), conv_strides=(2, 2, 1, 2)),
            CNNGap("silu", widths=(32, 48), conv_strides=(2, 2)),
            CNNGap("leaky_relu", widths=(8, 16, 24), conv_strides=(1, 2, 2)),
            CNNGap("tanh", widths=(8,) * 12, conv_strides=(2, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1)),
        ),
        test=(
            CNNGap("relu", widths=(64, 128, 256), conv_strides=(2, 2, 2)),
            CNNGap("tanh", widths=(20, 40, 40, 40, 40), conv_strides=(2, 2, 1, 2, 1)),
        ),
    ),
    "cnn_flatten": Family(
        train=(
            CNNFlatten("relu", widths=(8, 16), conv_strides=(2, 2), hidden=32),
            CNNFlatten("tanh", widths=(12, 12), conv_strides=(2, 2), hidden=24, use_bias=True),
            CNNFlatten("silu", widths=(24,), conv_strides=(2,), hidden=16),
            CNNFlatten("gelu", widths=(8, 16, 16), conv_strides=(2, 2, 2), hidden=32),
            CNNFlatten("leaky_relu", widths=(8,) * 8, conv_strides=(2, 1, 1, 1, 2, 1, 1, 1), hidden=48),
        ),
        test=(
            CNNFlatten("relu", widths=(64, 96), conv_strides=(2, 4), hidden=128),
            CNNFlatten("silu", widths=(20, 40, 40, 40), conv_strides=(2, 2, 1, 2), hidden=64),
        ),
    ),
    "resnet": Family(
        train=(
            ResNet("relu", widths=(8, 8, 16), block_strides=(2, 1, 2)),
            ResNet("tanh", widths=(12, 12), block_strides=(2, 1)),
            ResNet("silu", widths=(16, 16, 24, 24), block_strides=(2, 2, 1, 2)),
            ResNet("gelu", widths=(8, 16), block_strides=(2, 2)),
            ResNet("leaky_relu", widths=(8,) * 6, block_strides=(2, 1, 2, 1, 2, 1)),
        ),
        test=(
            ResNet("relu", widths=(32, 64, 64), block_strides=(2, 4, 1)),
            ResNet("tanh", widths=(20,) * 5, block_strides=(2, 2, 1, 2, 1)),
        ),
    ),
    "vit": Family(
        train=(
            ViT("relu", widths=(16, 16)),
            ViT("gelu", widths=(24,)),
            ViT("silu", widths=(32, 32), heads=4),
            ViT("leaky_relu", widths=(8,) * 4),
        ),
        test=(
            ViT("relu", widths=(64,), heads=4),
            ViT("tanh", widths=(12,) * 3),
        ),
    ),
    "sequence_transformer": Family(
        train=(
            SequenceTransformer("gelu", widths=(16, 16)),
            SequenceTransformer("tanh", widths=(24,), heads=4),
            SequenceTransformer("relu", widths=(32, 32), heads=4),
            SequenceTransformer("silu", widths=(8,) * 4),
        ),
        test=(
            SequenceTransformer("gelu", widths=(64,), heads=4),
            SequenceTransformer("leaky_relu", widths=(12,) * 3),
        ),
    ),
    "rnn": Family(
        train=(
            RNN("tanh", widths=(16,)),
            RNN("relu", widths=(32,)),
            RNN("leaky_relu", widths=(48,)),
            RNN("tanh", widths=(24, 24)),
        ),
        test=(
            RNN("relu", widths=(96,)),
            RNN("tanh", widths=(64, 64, 64)),
        ),
    ),
}


def _of_16_pixels(variants: Sequence[Classifier]) -> tuple[Classifier, ...]:
    """The variants for images of 16 pixels, whatever the images of the zoo."""
    return tuple(variant.clone(image_size=16) for variant in variants)


# The small networks of `WIDE` beside those of `DIVERSE`; what is wide there is trained on in neither.
MANY = {
    name: Family(_of_16_pixels(WIDE[name].train) + own.train, _of_16_pixels(WIDE[name].test) + own.test)
    if name in WIDE
    else own
    for name, own in DIVERSE.items()
}
CATALOGUES: dict[str, dict[str, Family]] = {"main": MAIN, "wide": WIDE, "diverse": DIVERSE, "many": MANY}
