"""What all tests share.

Compilation takes most of their time: it is done in a hurry, and once for programs that come again. Imports of wsrl
stand inside of functions, since the hook that checks shapes must come first.
"""

import os
import tempfile
from pathlib import Path

import hypothesis
import pytest

UNOPTIMIZED = "--xla_backend_optimization_level=0"  # compiles faster, runs slower


def pytest_configure(config: pytest.Config):
    """Sets what JAX reads when it is imported, here and in processes that tests start, and lets examples take long."""
    hypothesis.settings.register_profile("any machine", deadline=None)  # a busy machine is no failure
    hypothesis.settings.load_profile("any machine")
    if UNOPTIMIZED not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {UNOPTIMIZED}".strip()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        os.environ["COMPILED_IN_TESTS"] = folder.name
    own = Path(os.environ["COMPILED_IN_TESTS"]) / os.environ.get("PYTEST_XDIST_WORKER", "alone")
    own.mkdir(exist_ok=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(own)
    os.environ["JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


@pytest.fixture
def models(tmp_path):
    """Three checkpoints, the last without a function."""
    from fake_encoder import names, write_model

    for seed, name in enumerate(names(tmp_path / "models")):
        write_model(Path(name), seed, function=seed < 2)
    return tmp_path / "models"


@pytest.fixture
def built(models, tmp_path):
    """An index of them."""
    from fake_encoder import FakeEncoder

    from wsrl.search.index import Index

    return Index.build(FakeEncoder(), models, tmp_path / "index")
