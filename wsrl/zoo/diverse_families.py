"""The catalogue of networks as people train them: for images of 16 to 32 pixels, pooled, strided or flattened, with
norms or without, on pixels of several scales.

Of each family the widest test variant is wider than all that is trained on. Pixels from 0 to 1 and standardized ones
stand for recipes that no file tells.
"""

from wsrl.zoo.family import Family
from wsrl.zoo.models import MLP, RNN, CNNFlatten, CNNGap, CNNPooled, ResNet, SequenceTransformer, ViT

UNIT, STANDARD = (0.5, 0.5), (2.0, 0.0)  # pixels from 0 to 1; by a deviation of a quarter of their range

DIVERSE = {
    "mlp": Family(
        train=(
            MLP("relu", widths=(16, 16), image_size=16),
            MLP("relu", widths=(96, 48), image_size=28),
            MLP("silu", widths=(96,), image_size=28, pixels=UNIT),
            MLP("leaky_relu", widths=(64,) * 3, image_size=28, pixels=STANDARD),
            MLP("tanh", widths=(24,) * 6, image_size=32),
        ),
        test=(
            MLP("relu", widths=(128, 128), image_size=28, pixels=UNIT),
            MLP("tanh", widths=(80,) * 2, image_size=32),
        ),
    ),
    "cnn_gap": Family(
        train=(
            CNNGap("relu", widths=(16, 16, 16), conv_strides=(2, 2, 2), image_size=28),
            CNNGap("leaky_relu", widths=(12, 24), conv_strides=(2, 2), image_size=32, pixels=STANDARD),
            CNNGap("gelu", widths=(12, 16, 24, 24), conv_strides=(2, 2, 1, 2), image_size=16),
            CNNGap("silu", widths=(32, 48), conv_strides=(2, 2), image_size=16, pixels=UNIT),
            CNNGap("tanh", widths=(12,) * 5, conv_strides=(2, 2, 1, 1, 1), image_size=16),
        ),
        test=(
            CNNGap("relu", widths=(20, 40, 64), conv_strides=(2, 2, 2), image_size=28, pixels=UNIT),
            CNNGap("tanh", widths=(10, 20, 40), conv_strides=(2, 2, 2), image_size=32, pixels=STANDARD),
        ),
    ),
    "cnn_flatten": Family(
        train=(
            CNNFlatten("relu", widths=(8, 16), conv_strides=(2, 2), hidden=32, image_size=28, pixels=STANDARD),
            CNNFlatten("tanh", widths=(12, 12), conv_strides=(2, 2), hidden=24, use_bias=True, image_size=16),
            CNNFlatten("silu", widths=(24,), conv_strides=(2,), hidden=16, image_size=16, pixels=UNIT),
        ),
        test=(
            CNNFlatten("relu", widths=(20, 40), conv_strides=(2, 2), hidden=64, image_size=28, pixels=STANDARD),
            CNNFlatten("silu", widths=(14, 28, 28), conv_strides=(2, 2, 2), hidden=56, image_size=32),
        ),
    ),
    "cnn_pooled": Family(
        train=(
            CNNPooled("relu", widths=(8, 16), norm=True, image_size=16),
            CNNPooled("relu", widths=(8, 16), padded=False, kernel=5, hidden=48, image_size=28, pixels=UNIT),
            CNNPooled("tanh", widths=(8, 16), pooling="mean", hidden=24, image_size=16, pixels=STANDARD),
            CNNPooled("gelu", widths=(8, 12, 24), pooled=(True, True, False), norm=True, image_size=16),
        ),
        test=(
            CNNPooled("relu", widths=(14, 28), norm=True, hidden=64, image_size=28, pixels=STANDARD),
            CNNPooled("tanh", widths=(10, 20, 40), pooled=(True, True, False), image_size=28, pixels=UNIT),
        ),
    ),
    "resnet": Family(
        train=(
            ResNet("relu", widths=(8, 8, 16), block_strides=(2, 1, 2), image_size=28),
            ResNet("tanh", widths=(12, 12), block_strides=(2, 1), image_size=16),
            ResNet("silu", widths=(16, 16, 24, 24), block_strides=(2, 2, 1, 2), image_size=16, pixels=UNIT),
            ResNet("gelu", widths=(8, 16), block_strides=(2, 2), image_size=28, pixels=STANDARD),
        ),
        test=(ResNet("relu", widths=(14, 14, 28), block_strides=(2, 1, 2), image_size=28, pixels=STANDARD),),
    ),
    "vit": Family(
        train=(
            ViT("gelu", widths=(24,) * 2, image_size=28, patch=(7, 7), pixels=STANDARD),
            ViT("silu", widths=(32, 32), heads=4, image_size=28, patch=(7, 7)),
            ViT("relu", widths=(24,) * 2, heads=4, image_size=16, pixels=UNIT),
        ),
        test=(
            ViT("gelu", widths=(48,) * 2, heads=4, image_size=28, patch=(7, 7)),
            ViT("relu", widths=(40,), heads=4, image_size=32, patch=(8, 8), pixels=UNIT),
        ),
    ),
    "sequence_transformer": Family(
        train=(
            SequenceTransformer("gelu", widths=(16, 16), image_size=16),
            SequenceTransformer("relu", widths=(32, 32), heads=4, image_size=16, pixels=STANDARD),
            SequenceTransformer("silu", widths=(24, 24), image_size=28, patch=(1, 28), pixels=UNIT),
        ),
        test=(
            SequenceTransformer("gelu", widths=(48,), heads=4, image_size=16),
            SequenceTransformer("relu", widths=(40,), heads=4, image_size=28, patch=(1, 28), pixels=UNIT),
        ),
    ),
    "rnn": Family(
        train=(
            RNN("tanh", widths=(16,), image_size=16),
            RNN("relu", widths=(32,), image_size=28, pixels=STANDARD),
            RNN("tanh", widths=(24, 24), image_size=16),
        ),
        test=(
            RNN("tanh", widths=(64,), image_size=28),
            RNN("relu", widths=(80,), image_size=16, pixels=UNIT),
        ),
    ),
}
