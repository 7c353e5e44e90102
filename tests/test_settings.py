import re

import pytest

from configs import tiny
from experiments.job.settings import check_settings
from wsrl.errors import InputError


def test_the_configuration_is_accepted():
    check_settings(tiny.get_config())


@pytest.mark.parametrize(
    "field, value",
    [
        ("zoo.checkpoints", 0),
        ("zoo.batch_size", 0),
        ("zoo.image_size", -1),
        ("zoo.datasets", ""),
        ("encoder.loss", "triplet"),
        ("encoder.warmup_steps", 40),
        ("encoder.probes", 33),
        ("encoder.gradient_probes", 0),
        ("encoder.gradient_probes", 33),
        ("encoder.rank", 0),
        ("encoder.window", 0),
        ("encoder.validate_every", 0),
        ("encoder.template", -1.0),
        ("encoder.blur", -0.5),
        ("encoder.shrinkage", 0.0),
        ("encoder.accuracy_shrinkage", 0.0),
        ("encoder.shrinkage", float("nan")),
        ("encoder.temperature", 0.0),
        ("zoo.num_children", -1),
        ("zoo.num_distilled", -1),
        ("zoo.num_copies", -1),
        ("zoo.catalogue", "narrow"),
        ("zoo.storage", "tar"),
        ("dataset_encoder.data_sets", 0),
        ("dataset_encoder.steps", -1),
        ("dataset_encoder.fewest_examples", 1000),
        ("seed", -1),
    ],
)
def test_unusable_settings_are_refused_in_one_line(field, value):
    config = tiny.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=rf"^{re.escape(field)}: [^\n]+; [^\n]+$"):
        check_settings(config)
