import pytest

from configs import tiny
from experiments.job import check_settings
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
        ("encoder.backward_probes", 64),
        ("seed", -1),
    ],
)
def test_unusable_settings_are_refused_in_one_line(field, value):
    config = tiny.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=r"^[^\n]+: [^\n]+; [^\n]+$"):
        check_settings(config)
