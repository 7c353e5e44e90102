import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from wsrl.readers.allowlist import STORAGES, TORCH_DTYPES
from wsrl.readers.codebooks import E2M1
from wsrl.readers.number_types import LARGEST_BFLOAT16, number_type


@pytest.mark.parametrize("name", ["float32", "bool", "complex64", "bfloat16", "float8_e4m3fn", "float8_e8m0fnu"])
def test_types_have_their_names(name):
    assert number_type(name).name == name


def test_all_types_of_pytorch_are_known():
    assert all(number_type(name).itemsize for name in (*TORCH_DTYPES.values(), *STORAGES.values()))


def test_numbers_are_those_of_the_package():
    assert float(ml_dtypes.finfo(ml_dtypes.bfloat16).max) == LARGEST_BFLOAT16
    np.testing.assert_array_equal(E2M1, np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32))


def test_small_files_do_not_wait_for_the_package():
    program = "import sys, wsrl.encoder.checkpoint_encoder, wsrl.search.sources; print('ml_dtypes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
