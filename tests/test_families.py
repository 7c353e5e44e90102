import numpy as np
import pytest

from wsrl.zoo.families import CATALOGUES, Family
from wsrl.zoo.models import ACTIVATIONS, MLP


def widths(variants):
    return {width for model in variants for width in model.widths}


def depths(variants):
    return {len(model.widths) for model in variants}


def test_variants_keep_their_order_and_come_once():
    small, large = MLP(widths=(4,)), MLP(widths=(8,))
    assert Family((small, large), (small, large)).variants == (small, large)
    assert Family((large,), (small,)).variants == (large, small)


def test_the_main_catalogue_trains_and_tests_on_the_same():
    for family in CATALOGUES["main"].values():
        assert family.train == family.test == family.variants and len(family.variants) == 3


@pytest.mark.parametrize("name", CATALOGUES["wide"])
def test_wide_test_variants_are_unseen(name):
    family = CATALOGUES["wide"][name]
    assert not widths(family.train) & widths(family.test)
    assert any(len(model.widths) not in depths(family.train) for model in family.test)
    assert max(widths(family.test)) > max(widths(family.train))
    assert len(set(family.variants)) == len(family.train) + len(family.test)


def test_the_wide_catalogue_covers_its_range():
    variants = [model for family in CATALOGUES["wide"].values() for model in family.variants]
    assert (min(widths(variants)), max(widths(variants))) == (8, 256)
    assert (min(depths(variants)), max(depths(variants))) == (1, 12)
    assert {model.activation for model in variants} == set(ACTIVATIONS)
    for name in ("mlp", "cnn_gap"):
        family = CATALOGUES["wide"][name]
        assert np.max([*widths(family.test)]) == 256 and 16 in family.train[0].widths
