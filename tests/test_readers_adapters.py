import json

import numpy as np
import pytest
import safetensors.numpy

from wsrl.readers import open_checkpoint

A, B = np.ones((4, 6), np.float32), np.ones((5, 4), np.float32)
Q, V = "base_model.model.layers.0.q_proj", "base_model.model.layers.0.v_proj"


def peft(folder, **config):
    tensors = {f"{m}.lora_{ab}.weight": array for m in (Q, V) for ab, array in (("A", A), ("B", B))}
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    return folder


CASES = [
    ({"lora_alpha": 8, "r": 4}, {Q: 2, V: 2}),
    ({"lora_alpha": 8, "r": 4, "use_rslora": True}, {Q: 4, V: 4}),
    ({"lora_alpha": 8, "r": 4, "alpha_pattern": {"q_proj": 2}}, {Q: 0.5, V: 2}),
    ({"lora_alpha": 8, "r": 4, "alpha_pattern": {"layers.0.v_proj": 4, "proj": 1}}, {Q: 2, V: 1}),
    ({"lora_alpha": 8, "r": 2, "rank_pattern": {"q_proj": 4, "v_proj": 4}}, {Q: 2, V: 2}),
    ({"lora_alpha": "8", "r": 4}, {Q: 2, V: 2}),
    ({"lora_alpha": 10**400, "r": 4}, None),
    ({"lora_alpha": None, "r": 4}, None),
    ({}, None),
]


@pytest.mark.parametrize(("config", "scales"), CASES)
def test_scales_of_peft(tmp_path, config, scales):
    peft(tmp_path, **config)
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        found = open_checkpoint(path).metadata
        assert found.get("adapter_scales") == scales
        told = any("'lora_alpha' is no number" in line for line in found.get("warnings", ()))
        assert told == (scales is None and "lora_alpha" in config)


@pytest.mark.parametrize("down", [".lora_down.weight", ".lora.down.weight", ".hada_w1_b"])
def test_alphas_beside_the_matrices(tmp_path, down):
    tensors = {f"unet_a{down}": A, "unet_a.alpha": np.float32(2), f"unet_b{down}": A}
    safetensors.numpy.save_file({name: np.asarray(t) for name, t in tensors.items()}, tmp_path / "a.safetensors")
    assert open_checkpoint(tmp_path / "a.safetensors").metadata["adapter_scales"] == {"unet_a": 0.5}
