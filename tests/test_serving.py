"""The load of the benchmark of `wsrl serve`."""

import threading

import pytest
from test_map import small_index
from test_serve import served_in_a_thread, wait_until

from experiments.benchmarks import serving
from wsrl.search.index import Index


@pytest.mark.parametrize("there", [True, False])
def test_what_is_wrong_with_answers_is_counted(tmp_path, there, monkeypatch):
    monkeypatch.setattr(serving, "KINDS", 4)  # small ones
    small_index(tmp_path)
    answers, stop = serving.Answers(), threading.Event()
    ids = Index.open(tmp_path / "zoo.index").ids if there else ["gone"]
    with served_in_a_thread(tmp_path) as address:
        load = serving.Load(ids, tmp_path, 0)
        port = int(address.rpartition(":")[2])
        client = threading.Thread(target=serving.ask, args=(port, load, 1000.0, answers, stop))
        client.start()
        try:
            wait_until(lambda: sum(map(len, answers.seconds.values())) >= 60 or not client.is_alive())
        finally:
            stop.set()
            client.join()
    assert {"search", "search by a file", "refused", "model"} <= answers.seconds.keys()
    wrong = {kind for kind, count in answers.errors.items() if count}
    assert wrong == (set() if there else {"search", "search by weights", "search with conditions", "model"})
