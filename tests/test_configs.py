import collections
import importlib
import pkgutil
import re
from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import configs
from configs import large, pretrain, zoo
from experiments.benchmarks.speed import fresh_network
from experiments.job.settings import check_settings
from wsrl.data import ImageSet
from wsrl.graph.collection import make_buckets
from wsrl.graph.tiles import to_graph
from wsrl.training.fit import init_params, make_encoder
from wsrl.training.loop import init_state, make_optimizer
from wsrl.training.losses import contrastive
from wsrl.training.sampling import Targets
from wsrl.zoo import tasks as zoo_tasks
from wsrl.zoo.families import CATALOGUES
from wsrl.zoo.recipes import draw_runs
from wsrl.zoo.tasks import load_tasks

PROGRAMS = {"transfer": "experiments.transfer"}  # of configurations that are not the main job's
ALL = [module.name for module in pkgutil.iter_modules(configs.__path__)]
NAMES = [name for name in ALL if name not in PROGRAMS]
VARIANTS = ("packaged", "full", "gpu", "diverse")
CONFIGS = {name: importlib.import_module(f"configs.{name}").get_config for name in NAMES if name != "pretrain"}
CONFIGS |= {f"pretrain:{variant}": partial(pretrain.get_config, variant) for variant in VARIANTS}
CLASSES = {  # of image sets that do not have ten
    **{"keel/segment": 7, "keel/movement_libras": 15, "keel/satimage": 6, "keel/vowel": 11, "keel/letter": 26},
    **{"keel/texture": 11, "doodle3.npz": 3, "omniglot_japanese_katakana.npz": 47, "omniglot_sanskrit.npz": 42},
    **{"omniglot_latin.npz": 26, "omniglot_greek.npz": 24, "omniglot_korean.npz": 40},
    **{"bccd_blood_cells.npz": 3, "elpv_solar_cells.npz": 4, "face_mask.npz": 2, "smiles.npz": 2, "day_night.npz": 2},
    **{"molecules_solubility.npz": 4, "italy_power_plots.npz": 2, "dna_chaos_game.npz": 5, "flowers5.npz": 5},
    **{"neu_steel_defects.npz": 6, "wake_words.npz": 6, "osuleaf_shapes.npz": 6, "desktop_icons.npz": 7},
}


def fields(config):
    return {
        f"{section}.{field}" if isinstance(values, ml_collections.ConfigDict) else section: value
        for section, values in config.items()
        for field, value in (values.items() if isinstance(values, ml_collections.ConfigDict) else [("", values)])
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_are_flat_and_share_their_fields(name):
    found, known = fields(CONFIGS[name]()), fields(zoo.get_config())
    assert {field: type(value) for field, value in found.items()} == {f: type(value) for f, value in known.items()}
    assert {type(value) for value in found.values()} <= {int, float, str, bool}


@pytest.mark.parametrize("name", ALL)
def test_docstrings_give_command_cost_and_result(name):
    text, program = importlib.import_module(f"configs.{name}").__doc__, PROGRAMS.get(name, "experiments.main")
    assert re.search(rf"^Command: python -m {program} --config=configs/{name}.py", text, re.MULTILINE)
    for heading in ("Cost", "Result"):
        (paragraph,) = re.findall(rf"^{heading}[^:\n]*: (.+?)\n(?:\n|$)", text, re.MULTILINE | re.DOTALL)
        figures = re.search(r"\d", paragraph)
        assert not figures or name in ("tiny", "large") or re.search(r"\b[0-9a-f]{7}\b", paragraph), "no commit"


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_go_together(name):
    config = CONFIGS[name]()
    assert config.zoo.steps % config.zoo.checkpoints == 0
    assert config.zoo.num_test_tasks + config.zoo.num_validation_tasks < config.zoo.num_tasks
    check_settings(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_there_are_enough_tasks(name, monkeypatch):
    config = CONFIGS[name]().zoo

    def blank(data, *_):
        classes = sum(CLASSES.get(part, 10) for part in data.split("+"))
        return ImageSet(data, np.zeros((0, 16, 16), np.uint8), np.zeros(0, int), classes, np.zeros(0, bool))

    monkeypatch.setattr(zoo_tasks, "load_image_set", blank)
    sets, tasks = load_tasks(config)
    assert len({task.id for task in tasks}) == config.num_tasks
    assert {task.dataset for task in tasks} == {images.name for images in sets}
    counts = collections.Counter(task.split for task in tasks)
    assert (counts["validation"], counts["test"]) == (config.num_validation_tasks, config.num_test_tasks)
    runs = draw_runs(config, tasks)
    assert sum(run.parent is not None for run in runs) == config.num_children
    assert sum(run.teacher is not None for run in runs) == config.num_distilled


def test_the_test_of_pretraining_has_sets_and_a_family_of_its_own():
    for variant in VARIANTS:
        config = pretrain.get_config(variant).zoo
        assert config.test_datasets and config.validation_datasets
        own, trained = (set(text.split(",")) for text in (config.test_families, config.families))
        assert own - trained == {"resnet"}
        training = {part for name in config.datasets.split(",") for part in re.split(r"[+]|teacher/./", name)}
        assert not training & set(f"{config.test_datasets},{config.validation_datasets}".split(","))


def test_probes_of_the_diverse_variant_are_of_sets_that_are_trained_on():
    config = pretrain.get_config("diverse")
    assert set(config.encoder.probe_datasets.split(",")) <= set(config.zoo.datasets.split(","))


def test_another_variant_of_pretraining_is_told():
    with pytest.raises(
        ValueError, match=r"^no configuration pretrain\.py:tiny, choose packaged, full, gpu or diverse$"
    ):
        pretrain.get_config("tiny")


def test_pretraining_sweeps_and_reads_every_family():
    """By shapes alone, nothing is swept; the variant of the most inputs, in bfloat16."""
    config = pretrain.get_config("gpu")
    size = config.zoo.image_size
    encoder = make_encoder(config.encoder, (size, size, 1))
    params = init_params(encoder, np.zeros((config.encoder.probes, size, size, 1), np.float32), 0)
    families = CATALOGUES[config.zoo.catalogue]
    for name in config.zoo.test_families.split(","):
        graph = to_graph(fresh_network(families[name].train[0], 0, size), config.encoder.tile)
        (bucket,) = make_buckets([graph], config.encoder.batch_cost, config.encoder.slack)
        swept = jax.eval_shape(partial(encoder.apply, method="sweep"), {"params": params}, bucket.batch([0]))
        assert swept.logits.shape[2] == config.encoder.probes and swept.templates.shape[2] == size**2
        encoding = jax.eval_shape(partial(encoder.apply, method="read"), {"params": params}, swept)
        assert encoding.embedding.shape == (2, config.encoder.dim)
        assert {leaf.dtype for leaf in (encoding.embedding, encoding.accuracy, swept.logits)} == {jnp.dtype("float32")}


def test_large_step_has_consistent_shapes():
    size, config = large.get_config().zoo.image_size, large.get_config().encoder
    encoder = make_encoder(config, (size, size, 1))
    models = [family.variants[0] for family in CATALOGUES["main"].values()]
    graphs = [to_graph(fresh_network(model, seed), config.tile) for model in models for seed in (0, 1)]
    buckets = make_buckets(graphs, np.iinfo(np.int64).max)
    params = init_params(encoder, np.zeros((config.probes, size, size, 1), np.float32), 0)
    optimizer = make_optimizer(config)

    def step(state, batches):
        def loss(params):
            embedding = jnp.concatenate([encoder.apply({"params": params}, batch) for batch in batches])
            places = jnp.arange(len(embedding))
            targets = Targets(places % 2, places, places)
            value = contrastive(config.loss, embedding, targets, config.temperature, config.hard_negatives)
            return value, embedding

        gradients, embedding = jax.grad(loss, has_aux=True)(state.params)
        updates, _ = optimizer.update(gradients, state.opt_state, state.params)
        return updates, embedding

    batches = [bucket.batch(range(len(bucket.members))) for bucket in buckets]
    updates, embedding = jax.eval_shape(step, init_state(params, optimizer), batches)
    networks = sum(bucket.size + 1 for bucket in buckets)
    assert embedding.shape == (networks, config.dim) and embedding.dtype == jnp.float32
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (params, updates))
    assert shapes[0] == shapes[1]
