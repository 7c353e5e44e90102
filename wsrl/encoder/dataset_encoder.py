"""Labeled examples as a classifier, so that a data set gets a vector among those of networks and can query a zoo.

The classifier tells how similar an image is to the examples of each class, in a space of features that is learned
(matching networks, Vinyals et al. 2016). Its logits at the encoder's learned inputs are read out as those of a network.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int
from safetensors import SafetensorError

from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.export import encoder_hash
from wsrl.encoder.swept import Swept, fit_inputs
from wsrl.encoder.templates import blurred
from wsrl.errors import InputError
from wsrl.files import write_atomically

FILE = "dataset_encoder"
FIELDS = ("width", "features", "gradient_probes", "blur")
FEWEST_EXAMPLES, FEWEST_CLASSES = 32, 8  # of a program; more are padded to the next power of two


class Labeled(NamedTuple):
    """Examples of data sets, padded.

    Attributes:
      images: normalized as `wsrl.data.normalize` does, of the encoder's input shape.
      labels: one where an example is of the class; zero everywhere for padding.
    """

    images: Float[Any, "*sets examples height width channels"]
    labels: Float[Any, "*sets examples classes"]


class DatasetEncoder(nn.Module):
    """A classifier made of labeled examples, with features that are learned.

    Features start as the pixels, so untrained parameters serve as well.

    Attributes:
      width: of the hidden layer of the features.
      features: learned beside the pixels.
      gradient_probes, blur: of the encoder.
    """

    width: int = 256
    features: int = 64
    gradient_probes: int = 64
    blur: float = 0.8

    def setup(self) -> None:
        """Declares the parameters."""
        self.hidden = nn.Dense(self.width)
        self.out = nn.Dense(self.features, use_bias=False, kernel_init=nn.initializers.zeros)
        self.log_bandwidth = self.param("log_bandwidth", nn.initializers.zeros, ())

    def embed_images(self, images: Float[Any, "*n height width channels"]) -> Float[Array, "*n features"]:
        """The pixels, and learned functions of them; squared distances are means over pixels."""
        pixels = jnp.asarray(images).reshape(*images.shape[:-3], -1)
        pixels = pixels / np.sqrt(pixels.shape[-1])
        return jnp.concatenate([pixels, self.out(nn.gelu(self.hidden(pixels)))], -1)

    def logits(self, images: Float[Any, "n height width channels"], examples: Labeled) -> Float[Array, "classes n"]:
        """Logits of one data set's classifier at any images: the mean Gaussian kernel over the examples of each class.

        This is the one definition of the classifier, a smooth function of `images`. Differences between classes are the
        witness functions of Gretton et al. (2012, sec. 2.3); scale and center fall out in the read-out.
        """
        ours, theirs = self.embed_images(images), self.embed_images(examples.images)
        square = jnp.square(ours).sum(1)[:, None] + jnp.square(theirs).sum(1)[None] - 2 * ours @ theirs.T
        kernel = jnp.exp(-square / (2 * jnp.exp(2 * self.log_bandwidth)))
        return (kernel @ examples.labels / jnp.maximum(examples.labels.sum(0), 1.0)).T

    def respond(
        self, inputs: Float[Any, "inputs height width channels"], examples: Labeled
    ) -> tuple[Float[Array, "classes inputs"], Float[Array, "classes pixels"]]:
        """Logits and templates of one data set's classifier; see `wsrl.encoder.swept.Swept`."""
        some = jnp.asarray(inputs)[: self.gradient_probes]
        exists = (examples.labels.sum(0) > 0).astype(some.dtype)

        def centered(shift: Array) -> Array:
            found = self.logits(some + shift, examples).mean(1) * exists
            return (found - found.sum() / jnp.maximum(exists.sum(), 1.0)) * exists

        gradients = jax.jacrev(centered)(jnp.zeros(some.shape[1:], some.dtype)).sum(-1)
        templates = blurred(gradients[None], self.blur)[0]
        return self.logits(inputs, examples), templates.reshape(len(templates), -1)

    def __call__(self, inputs: Float[Any, "inputs height width channels"], examples: Labeled) -> Swept:
        """What the sweeps would tell of networks that classify as the data sets [sets, ...] do."""
        one = nn.vmap(
            lambda module, images, labels: module.respond(inputs, Labeled(images, labels)),
            variable_axes={"params": None},
            split_rngs={"params": False},
        )
        logits, templates = one(self, examples.images, examples.labels)
        return Swept(logits, templates, (examples.labels.sum(1) > 0).astype(jnp.float32))


def init_dataset_params(
    encoder: ResponseEncoder, inputs: Float[Any, "n height width channels"], seed: int
) -> tuple[DatasetEncoder, Any]:
    """A data-set encoder that is not trained yet, and fit for use: its features are the pixels.

    Args:
      encoder: that it will be used with.
      inputs: the encoder's.
      seed: of the learned features' first layer.
    """
    dataset_encoder = DatasetEncoder(gradient_probes=encoder.gradient_probes, blur=encoder.blur)
    examples = Labeled(np.zeros((1, 1, *inputs.shape[1:]), np.float32), np.ones((1, 1, 1), np.float32))
    return dataset_encoder, dataset_encoder.init(jax.random.key(seed), jnp.asarray(inputs), examples)["params"]


def pad_examples(
    x: Float[np.ndarray, "n height width channels"], y: Int[np.ndarray, "n"], examples: int, classes: int
) -> Labeled:
    """Pads labeled images to `examples` and `classes`; labels below zero count as padding."""
    images = np.zeros((examples, *x.shape[1:]), np.float32)
    images[: len(x)] = x
    labels = np.zeros((examples, classes), np.float32)
    known = np.flatnonzero(y >= 0)
    labels[known, y[known]] = 1.0
    return Labeled(images, labels)


def embed_dataset(
    dataset_encoder: DatasetEncoder,
    dataset_params: Any,
    encoder: ResponseEncoder,
    encoder_params: Any,
    x: Float[np.ndarray, "n height width channels"],
    y: Int[np.ndarray, "labels"],
) -> Float[np.ndarray, "dim"]:
    """The vector of a labeled data set, to be compared with those that `encoder` gives networks.

    Programs are compiled for powers of two of examples and classes.

    Args:
      dataset_encoder, dataset_params: fitted to this encoder.
      encoder, encoder_params: of the zoo.
      x: images as `wsrl.data.normalize` makes them, -1 to 1; resized to the encoder's input shape.
      y: class of each image, 0 to classes - 1; their order means nothing.

    Returns:
      float32, of length 1.

    Raises:
      InputError: no images, pixels that are not finite, another number of labels than of images, fewer than two
        classes, or a class without an example.
    """
    if np.ndim(x) != 4 or np.shape(y) != (len(x),) or 0 in np.shape(x):
        raise InputError("data set", f"x {np.shape(x)} and y {np.shape(y)}", "give images [n, h, w, c] and classes [n]")
    if not np.isfinite(x).all():
        raise InputError("data set", "pixels that are not finite", "leave such images out")
    y = np.asarray(y, np.int64)
    counts = np.bincount(y, minlength=2) if y.min() >= 0 else np.zeros(1)
    if not counts.all():
        raise InputError("data set", "a class without an example", "number the classes, two or more, from 0")
    images = np.asarray(fit_inputs(jnp.asarray(x, jnp.float32), encoder.input_shape))
    padded = pad_examples(images, y, _bucket(len(y), FEWEST_EXAMPLES), _bucket(len(counts), FEWEST_CLASSES))
    return np.asarray(_embed(dataset_encoder, encoder, dataset_params, encoder_params, padded))


def _bucket(count: int, fewest: int) -> int:
    return max(fewest, 1 << (count - 1).bit_length())


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed(
    dataset_encoder: DatasetEncoder,
    encoder: ResponseEncoder,
    dataset_params: Any,
    encoder_params: Any,
    examples: Labeled,
) -> Float[Array, "dim"]:
    alone = Labeled(*(part[None] for part in examples))
    swept = dataset_encoder.apply({"params": dataset_params}, encoder_params["inputs"], alone)
    return encoder.apply({"params": encoder_params}, swept, method="embed")[0]  # pyright: ignore


def save_dataset_encoder(
    directory: Path, dataset_encoder: DatasetEncoder, dataset_params: Any, encoder: ResponseEncoder, encoder_params: Any
) -> str:
    """Writes `dataset_encoder.safetensors` and `.json` beside the encoder's files; returns the hash of both."""
    shape = {name: getattr(dataset_encoder, name) for name in FIELDS}
    described = shape | {"encoder_hash": encoder_hash(encoder, encoder_params)}
    # in order of rows, or safetensors writes other numbers
    tensors = {name: np.asarray(value, order="C") for name, value in flatten_dict(dataset_params, sep="/").items()}
    content = safetensors.numpy.save(tensors)
    text = json.dumps(described, indent=1).encode()
    write_atomically(directory / f"{FILE}.json", text)
    write_atomically(directory / f"{FILE}.safetensors", content)
    return hashlib.sha256(text + content).hexdigest()


def load_dataset_encoder(directory: Path, encoder: ResponseEncoder, encoder_params: Any) -> tuple[DatasetEncoder, Any]:
    """Reads what `save_dataset_encoder` wrote.

    Raises:
      InputError: a file is missing or not readable, or it was fitted to another encoder.
    """
    try:
        described = json.loads((directory / f"{FILE}.json").read_bytes())
        fitted_to = described.pop("encoder_hash")
        dataset_encoder = DatasetEncoder(**described)
        tensors = safetensors.numpy.load_file(directory / f"{FILE}.safetensors")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(directory, f"holds no readable data-set encoder ({error})", "fit it again") from error
    if fitted_to != encoder_hash(encoder, encoder_params):
        raise InputError(directory, "its data-set encoder was fitted to another encoder", "fit it again")
    return dataset_encoder, unflatten_dict(tensors, sep="/")
