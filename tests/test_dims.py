import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsrl.wiring.dims import Dim, fix, mark, size_of, tie, tie_values, view

factors = st.integers(1, 4)


@given(st.lists(st.tuples(factors, factors), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_ties_keep_sizes_and_end_in_one_root(structures, random):
    size = 576
    dims = [
        view(Dim(size // (outer * inner)), outer, inner) for outer, inner in structures if size % (outer * inner) == 0
    ]
    random.shuffle(dims)
    for a, b in itertools.pairwise(dims):
        tie(a, b)
    roots = [dim.find() for dim in dims]
    assert len({id(root) for root, _, _ in roots}) <= 1
    for dim, (root, outer, inner) in zip(dims, roots, strict=True):
        assert outer * root.size * inner == dim.size == size


@given(factors, factors, factors, factors, st.integers(1, 5))
def test_views_compose(outer, inner, more_outer, more_inner, size):
    base = Dim(size)
    twice = view(view(base, outer, inner), more_outer, more_inner)
    assert twice.find() == (base, outer * more_outer, inner * more_inner)
    assert twice.size == size * outer * inner * more_outer * more_inner


@given(st.permutations(range(5)), st.integers(0, 4))
def test_fixed_spreads_to_all_that_is_tied(order, which):
    dims = [Dim(6) for _ in order]
    fix([dims[which]])
    for a, b in itertools.pairwise(order):
        tie(dims[a], dims[b])
    assert not any(dim.permutable for dim in dims)


def test_structures_meet_in_the_finest():
    heads, gates = view(Dim(4), inner=6), view(Dim(12), outer=2)
    tie(heads, gates)
    root, outer, inner = heads.find()
    assert (root.size, outer, inner) == (2, 2, 6)
    assert gates.find() == (root, 2, 6)


def test_structures_that_do_not_meet_fix_both():
    a, b = view(Dim(4), inner=3), view(Dim(3), outer=4)
    tie(a, b)
    assert not a.permutable
    assert not b.permutable


def test_a_dim_tied_to_itself_in_two_ways_is_fixed():
    base = Dim(4)
    tie(view(base, outer=2), view(base, inner=2))
    assert not base.permutable


def test_roles_survive_ties():
    a, b = Dim(3), Dim(3, role="input")
    mark([a], "output")
    tie(a, b)
    assert a.find()[0].role == "input"
    assert not a.permutable


def test_dims_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="3 and 4"):
        tie(Dim(3), Dim(4))


def test_values_cut_differently_are_tied_in_blocks():
    a, b = (Dim(2), Dim(4)), (Dim(4), Dim(2))
    tie_values(a, b)
    assert size_of(a) == size_of(b) == 6
    assert len({id(dim.find()[0]) for dim in a + b}) == 1
    assert a[0].find()[0].size == 2


def test_values_cut_at_unlike_places_are_fixed():
    a, b = (Dim(2), Dim(3)), (Dim(3), Dim(2))
    tie_values(a, b)
    assert not any(dim.permutable for dim in a + b)
