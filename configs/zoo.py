"""The main job: a zoo of small classifiers, an encoder, an index, an evaluation, a report.

Command: python -m experiments.main --config=configs/zoo.py

Cost: 7 minutes on two busy cores of an AMD EPYC, with training the zoo (134 s), sweeps (28 s), three encoders (55 s)
and baselines (105 s); measured at e63cd98.

Result: models of the same task among 858 test models of 8 unseen tasks, within an architecture and across. P@10 .98
[.97, .99] and .98 [.97, .99], mAP .97 [.96, .98] and .97 [.96, .98] (measured at 05bd9a1); by embeddings alone P@10 .95
and .97, mAP .92 and .90; the best baseline's mAP .15 and .16 (6b34052). Kendall's tau of predicted accuracy .56
[.52, .60] (9525569).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration of the main job."""
    config = ml_collections.ConfigDict()
    config.seed = 0

    # The zoo: data, tasks, runs.
    config.zoo = zoo = ml_collections.ConfigDict()
    zoo.dir = ""  # an existing zoo (models.jsonl and safetensors files) instead of a trained one
    zoo.datasets = "mnist_5k,digits"  # names as wsrl/data.py takes them
    zoo.validation_datasets = ""  # sets for the validation tasks alone; empty to draw these from `datasets`
    zoo.test_datasets = ""  # sets for the test tasks alone
    zoo.data_dir = ""  # folder of prepared TFDS data sets and of .npz files; empty for TFDS's own default
    zoo.image_size = 16  # pixels a side
    zoo.max_images = 5000  # of a data set, a fifth of them held out
    zoo.num_classes = 5  # output neurons of every network
    zoo.num_tasks = 66  # tasks in all: (data set, transform, labels)
    zoo.num_test_tasks = 8  # never seen in training
    zoo.num_validation_tasks = 6  # for early stopping of the encoder
    zoo.num_seen_tasks = 6  # training tasks with fresh test runs
    zoo.test_images = 500  # held-out images a task at most, for the accuracy
    zoo.catalogue = "main"  # of architectures; main or wide
    zoo.families = "mlp,cnn_gap,cnn_flatten,resnet,vit"
    zoo.test_families = ""  # of test runs; empty for the same
    zoo.recipes = "sound"  # ranges of hyper-parameters: sound, where most runs train well, or broad
    zoo.runs_train = 1  # runs a task and family
    zoo.runs_validation = 2
    zoo.runs_test = 7  # on unseen tasks
    zoo.runs_seen = 4  # test runs on seen tasks
    zoo.num_children = 50  # fine-tuned runs
    zoo.num_distilled = 0  # runs of another family trained on a model's predictions
    zoo.num_copies = 0  # quantized, pruned or noisy copies of final checkpoints
    zoo.steps = 300  # of a run
    zoo.stretched = 0.0  # share of the runs that are trained for several times as long
    zoo.stretch = 1  # how many times
    zoo.checkpoints = 3  # kept of a run, the last is the final one
    zoo.batch_size = 32
    zoo.chunk_size = 26  # networks trained together
    zoo.storage = "files"  # or array_record, for zoos larger than memory

    # The encoder.
    config.encoder = encoder = ml_collections.ConfigDict()
    encoder.seeds = 3
    encoder.tile = 16  # neurons a tile of the graph
    encoder.probes = 256  # learned inputs, started from images of the training tasks
    encoder.probe_datasets = ""  # sets that they are drawn from, among those of the training tasks; empty for all
    encoder.probe_size = 0  # pixels a side of them; 0 for that of the zoo's images
    encoder.chunk = 8  # learned inputs swept at a time
    encoder.dim = 512  # of the embedding
    encoder.rank = 64  # components of the responses that the read-out takes products of
    encoder.evidence = 0.5  # weight of log probabilities beside probabilities
    encoder.template = 0.5  # weight of templates, the mean gradients of the classes at the inputs
    encoder.smoothing = 0.1  # of the projection to what the classes' responses span; 1e4 gives plain sums of products
    encoder.gradient_probes = 64  # inputs that are also swept backward; templates are averaged over them
    encoder.blur = 0.8  # of templates, in pixels
    encoder.discriminants = True  # the read-out starts from discriminant analyses, or else at random
    encoder.shrinkage = 3.0  # of the scatter of products within tasks
    encoder.accuracy_shrinkage = 5.0  # of the products in the ridge regression of accuracies
    encoder.dtype = "float32"  # of the sweeps; bfloat16 on a TPU or GPU
    encoder.batch_cost = 2048  # sweep cost of a batch: tiles times positions
    encoder.window = 1024  # models of the zoo in memory at a time
    encoder.slack = 2.0  # padding that buckets of like shapes may cost
    encoder.loss = "supervised_contrastive"  # or margin
    encoder.temperature = 0.1
    encoder.margin = 1.0
    encoder.hard_negatives = 1.0  # weight of negatives of the same architecture
    encoder.batch_size = 192  # networks a step, on all devices together
    encoder.tasks_per_batch = 32
    encoder.class_map_share = 0.9  # draws restricted to some of the classes
    encoder.merge_share = 0.5  # of those, draws with merged classes
    encoder.steps = 200
    encoder.validate_every = 50
    encoder.warmup_steps = 20
    encoder.learning_rate = 1e-4
    encoder.input_learning_rate = 0.0  # zero keeps the inputs natural, and the sweeps are done once
    encoder.weight_decay = 1e-4
    encoder.clip_norm = 1.0

    # The data-set encoder, with which labeled examples query the zoo; what is not named here is as in `encoder`.
    config.dataset_encoder = dataset = ml_collections.ConfigDict()
    dataset.steps = 0  # 0 leaves its features the pixels
    dataset.validate_every = 20
    dataset.learning_rate = 5e-3
    dataset.batch_size = 128
    dataset.tasks_per_batch = 16
    dataset.data_sets = 16  # of a batch
    dataset.fewest_examples = 20  # of a data set
    dataset.most_examples = 512

    # The start score, which tells good starts for fine-tuning: linear probes of training models on training tasks.
    config.starts = starts = ml_collections.ConfigDict()
    starts.models = 120  # probed, at most
    starts.tasks = 24  # that they are probed on, at most; 0 leaves the score out

    # The synchronous GNN with one edge a weight, the learned baseline.
    config.gnn = gnn = ml_collections.ConfigDict()
    gnn.width = 32
    gnn.rounds = 3
    gnn.edges = 65_536  # edges a batch of each bucket
    gnn.tasks_per_batch = 16
    gnn.validate_every = 25
    gnn.seconds = 0.0  # of training; zero for the time that an encoder took
    gnn.steps = 100_000  # never reached; 0 leaves it out
    gnn.learning_rate = 1e-3

    # Evaluation.
    config.evaluation = evaluation = ml_collections.ConfigDict()
    evaluation.resamples = 1000  # of the bootstrap
    evaluation.invariance_models = 40  # transformed at random
    return config
