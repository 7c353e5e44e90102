"""Two processes take the steps of one."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from wsrl.errors import InputError
from wsrl.training.hosts import join

PROCESS = """
import sys
from pathlib import Path
import jax, numpy as np
folder, processes, own, port = Path(sys.argv[1]), *map(int, sys.argv[2:])
jax.config.update("jax_num_cpu_devices", 2 // processes)
from wsrl.training.hosts import TOGETHER, join, leader_first, leads, wait_for_all
join(f"127.0.0.1:{port}" if processes > 1 else "", *((processes, own) if processes > 1 else ()))
assert (jax.process_count(), jax.device_count()) == (processes, 2)
sys.path.insert(0, "tests")
from test_training_loop import global_step, losses, run
loss, leaves = global_step(2, TOGETHER)
best, rows = run(folder / "together", hosts=TOGETHER)
again, restored = run(folder / "together", hosts=TOGETHER)  # from the checkpoint
assert losses(restored) == losses(rows)
jax.tree.map(np.testing.assert_array_equal, best, again)
with leader_first("file"):
    assert (folder / "file").exists() != leads()
    (folder / "file").touch()
wait_for_all("done")
arrays = {str(i): leaf for i, leaf in enumerate(leaves)}
np.savez(folder / f"{own}.npz", loss=loss, losses=losses(rows), kernel=best["rest"]["kernel"], **arrays)
"""


def start(folder, processes, own, port):
    folder.mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    words = [str(folder), str(processes), str(own), str(port)]
    return subprocess.Popen([sys.executable, "-c", PROCESS, *words], env=environment, stderr=subprocess.PIPE, text=True)


def test_two_processes_take_the_steps_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [start(tmp_path / "two", 2, own, port) for own in range(2)] + [start(tmp_path / "one", 1, 0, port)]
    told = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], told
    one = dict(np.load(tmp_path / "one" / "0.npz"))
    assert len(one["losses"]) == 6 and len(one) > 5
    for own in range(2):
        two = dict(np.load(tmp_path / "two" / f"{own}.npz"))
        assert one.keys() == two.keys()
        for key, value in one.items():
            np.testing.assert_allclose(two[key], value, rtol=1e-4, atol=1e-6)
    rows = [json.loads(line) for line in (tmp_path / "two" / "together" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert len(list((tmp_path / "two" / "together" / "tensorboard").iterdir())) == 2  # one of each call, by the leader


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(("", 2), "--coordinator"), (("host:1",), "--processes"), (("host:1", 2), "--processes"),
     (("host:1", 2, 2), "--process_id"), (("auto", 1, -1), "--process_id")],
)  # fmt: skip
def test_processes_that_do_not_fit_together_are_told(arguments, named):
    with pytest.raises(InputError, match=f"^{named}: "):
        join(*arguments)
