import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.tables.accuracy import drawn_anew, halves, main


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=30), min_size=1, max_size=5), st.integers(0, 99))
def test_halves_share_out_the_images(answers, seed):
    right = [np.array(own) for own in answers]
    first, second = halves(right, np.random.default_rng(seed))
    for own, a, b in zip(right, first, second, strict=True):
        assert a * ((len(own) + 1) // 2) + b * (len(own) // 2) == pytest.approx(own.sum())


def test_images_drawn_anew_scatter_about_the_accuracy():
    right = [np.arange(100) < 70] * 2000 + [np.ones(100, bool), np.zeros(100, bool)]
    known, drawn = drawn_anew(right, np.random.default_rng(0))
    assert known[0] == 0.7 and (known[-2:] == [1, 0]).all() and (drawn[-2:] == [1, 0]).all()
    assert drawn[:2000].mean() == pytest.approx(0.7, abs=0.005)
    assert drawn[:2000].std() == pytest.approx((0.7 * 0.3 / 100) ** 0.5, rel=0.1)


def test_a_folder_without_a_run_is_told_in_one_line(tmp_path, capsys):
    assert main([f"--workdir={tmp_path}"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
