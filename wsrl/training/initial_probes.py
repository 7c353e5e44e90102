"""Where the encoder's learned inputs start: natural images."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wsrl.data import ImageSet, normalize
from wsrl.zoo.tasks import Task, transform_images


def natural_inputs(
    image_sets: Sequence[ImageSet], tasks: Sequence[Task], count: int, seed: int
) -> Float[np.ndarray, "count size size 1"]:
    """Draws images of the training tasks, in turns, never held-out ones.

    Args:
      image_sets: all with one image size.
      tasks: the training tasks; without any, images are drawn as they are.
      count: images.
      seed: of the draw.

    Returns:
      float32, normalized as the zoo's models are fed them, in random order.
    """
    rng = np.random.default_rng([seed, 2])
    by_name = {images.name: images for images in image_sets}
    order = rng.permutation(len(tasks)) if tasks else np.arange(len(image_sets))
    drawn = []
    for i in range(count):
        if tasks:
            task = tasks[order[i % len(order)]]
            images, transform = by_name[task.dataset], task.transform
            usable = ~images.held_out & (np.array(task.label_map)[images.y] >= 0)
        else:
            images, transform = image_sets[i % len(image_sets)], "identity"
            usable = ~images.held_out
        place = rng.choice(np.flatnonzero(usable))
        drawn.append(normalize(transform_images(images.x[place : place + 1], transform))[0])
    return rng.permutation(np.stack(drawn))[..., None].astype(np.float32)
