import io
import zipfile

import numpy as np
import pytest

from experiments.proofs import torch_files
from experiments.proofs.samples import SAMPLES, arrays, write
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint


def agent(path, compression=zipfile.ZIP_STORED, **members):
    policy = torch_files.zip_bytes(*torch_files.state_dict(arrays()), root="policy")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in ({"data": b'{"gamma": 0.99}', "policy.pth": policy} | members).items():
            archive.writestr(name, content)
    return write(path / "agent.zip", file.getvalue())


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_policy_and_settings(tmp_path, compression):
    found = open_checkpoint(agent(tmp_path, compression))
    np.testing.assert_array_equal(np.asarray(found.tensors["fc.weight"]), arrays()["fc.weight"])
    assert found.metadata["gamma"] == 0.99


def test_pickles_in_the_settings_stay_shut(tmp_path):
    metadata = open_checkpoint(SAMPLES["stable_baselines3"](tmp_path)).metadata
    assert "policy_class" not in metadata and "policy.optimizer.pth" in metadata["left_out"]


def test_settings_do_not_pass_for_what_the_reader_says(tmp_path):
    settings = b'{"left_out": "x", "framework": "x", "format": "x", "config": "x"}'
    metadata = open_checkpoint(agent(tmp_path, data=settings)).metadata
    assert metadata["framework"] == "pytorch" and isinstance(metadata["left_out"], tuple)
    assert metadata["format"] == "stable-baselines3" and "config" not in metadata


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_broken_settings(tmp_path, content):
    with pytest.raises(CheckpointError, match="its member 'data'"):
        open_checkpoint(agent(tmp_path, data=content))


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"nonsense" * 9, torch_files.dumps({})])
def test_broken_policies(tmp_path, content):
    with pytest.raises(CheckpointError, match="zip archive"):
        open_checkpoint(agent(tmp_path, **{"policy.pth": content}))


def test_code_in_the_policy_is_refused(tmp_path):
    hostile = torch_files.Call(torch_files.Name("os", "system"), ("true",))
    with pytest.raises(CheckpointError, match=r"os\.system"):
        open_checkpoint(agent(tmp_path, **{"policy.pth": torch_files.zip_bytes(hostile, [])}))
