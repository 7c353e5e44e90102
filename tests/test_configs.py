import importlib
import pkgutil

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import configs
from configs import large, zoo
from experiments.benchmark import fresh_network
from wsrl.data import ImageSet
from wsrl.encoder.encoder import Encoding
from wsrl.encoder.fit import init_params, make_encoder
from wsrl.encoder.losses import contrastive
from wsrl.encoder.train import init_state, make_optimizer
from wsrl.graph.collection import make_buckets
from wsrl.graph.tiles import to_graph
from wsrl.zoo.families import CATALOGUES
from wsrl.zoo.recipes import draw_runs
from wsrl.zoo.tasks import draw_tasks

NAMES = [module.name for module in pkgutil.iter_modules(configs.__path__)]


def fields(config):
    return {
        f"{section}.{field}" if isinstance(values, ml_collections.ConfigDict) else section: value
        for section, values in config.items()
        for field, value in (values.items() if isinstance(values, ml_collections.ConfigDict) else [("", values)])
    }


@pytest.mark.parametrize("name", NAMES)
def test_configurations_are_flat_and_share_their_fields(name):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    found, known = fields(config), fields(zoo.get_config())
    assert {field: type(value) for field, value in found.items()} == {f: type(value) for f, value in known.items()}
    assert {type(value) for value in found.values()} <= {int, float, str, bool}
    assert f"--config=configs/{name}.py" in module.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_sizes_go_together(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.zoo.steps % config.zoo.checkpoints == 0
    assert config.zoo.num_test_tasks + config.zoo.num_validation_tasks < config.zoo.num_tasks
    assert set(config.zoo.families.split(",")) <= set(CATALOGUES["main"])
    assert config.encoder.probes % config.encoder.chunk == 0
    assert config.encoder.backward_probes <= config.encoder.probes


@pytest.mark.parametrize("name", NAMES)
def test_there_are_enough_tasks(name):
    config = importlib.import_module(f"configs.{name}").get_config().zoo
    pixels, classes, held_out = np.zeros((0, 16, 16), np.uint8), np.zeros(0, int), np.zeros(0, bool)
    sets = [ImageSet(data, pixels, classes, 10, held_out) for data in config.datasets.split(",")]
    numbers = (config.num_tasks, config.num_test_tasks, config.num_validation_tasks)
    tasks = draw_tasks(sets, *numbers, num_classes=config.num_classes)
    assert len({task.id for task in tasks}) == config.num_tasks
    runs = draw_runs(config, tasks)
    assert sum(run.parent is not None for run in runs) == config.num_children


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
            encodings = [encoder.apply({"params": params}, batch) for batch in batches]
            encoding = Encoding(*(jnp.concatenate(parts) for parts in zip(*encodings, strict=True)))
            label = jnp.arange(len(encoding.embedding)) % 2
            value = contrastive(config.loss, encoding.embedding, label, jnp.arange(len(label)), config.temperature)
            return value, encoding

        gradients, encoding = jax.grad(loss, has_aux=True)(state.params)
        updates, _ = optimizer.update(gradients, state.opt_state, state.params)
        return updates, encoding

    batches = [bucket.batch(range(len(bucket.members))) for bucket in buckets]
    updates, encoding = jax.eval_shape(step, init_state(params, optimizer), batches)
    networks = sum(bucket.size + 1 for bucket in buckets)
    assert encoding.embedding.shape == (networks, config.dim) and encoding.accuracy.shape == (networks,)
    assert encoding.embedding.dtype == jnp.float32
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (params, updates))
    assert shapes[0] == shapes[1]
