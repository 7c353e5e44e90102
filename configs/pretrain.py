"""The encoder that ships: a zoo of hundreds of tasks, with data sets, widths and architectures for the test alone.

Command: python -m experiments.main --config=configs/pretrain.py:full --workdir=runs/pretrain \
    --config.zoo.data_dir=DATA_DIR

DATA_DIR holds MNIST and Fashion-MNIST as TFDS prepares them (array_record), and as .npz files notMNIST, spoken digits,
signed digits, OpenCV's digits, three classes of Quick, Draw! and five alphabets of Omniglot: 20,000 models of 1,200
tasks. Without `:full` and DATA_DIR it takes data that packages carry (extra `tabular`) for 224 tasks. `:gpu` has four
runs in place of one for each task and family, trained for longer and swept with more inputs, for a machine with an
accelerator; it has not been run.

`:diverse` has small networks and networks as people train them (catalogue `many`) on 72 sets, most of 32 pixels, of
which DATA_DIR holds the .npz files beside MNIST and Fashion-MNIST: 9,200 models of 566 tasks. A source of images stands
on one side. The probe inputs are drawn from sets whose licenses let them be passed on. Its encoder is not that of the
package.

Cost: 43 minutes on two busy cores of an AMD EPYC for `:full`, 23 for the zoo, 12 for sweeps, 8 for three encoders and
everything else; measured at 6b34052. `:diverse` took 75 core minutes, 70 for the zoo, beside much other work.

Result: models of the same task among 1,141 test models of 16 tasks on unseen data sets, within an
architecture and across. P@1 .92 [.89, .94] and .90 [.87, .93], mAP .90 [.88, .92] and .83 [.81, .86] (measured at
6b34052); by embeddings alone P@1 .89 and .86, mAP .82 and .60; running all models on images of the query's task P@1
.92 and .92, mAP .88 and .85 (70bc89c). Of `:diverse`, PyTorch files of its own test: P@1 .78 and .78, mAP .66 and .63
where they are told what the manifest says, P@1 .60 and .59, mAP .52 and .39 where they tell tensors alone; with the
encoder of `:full` .78 and .75, .66 and .62, and .59 and .58, .51 and .39 (d438f88).
"""

import ml_collections

from configs import zoo
from wsrl.annotations import Config

PACKAGED = {
    "datasets": ",".join(
        [
            *("mnist_5k", "keel/penbased", "keel/segment", "keel/movement_libras", "keel/satimage"),
            *("teacher/0/dead_leaves", "teacher/1/dead_leaves", "teacher/2/dead_leaves", "teacher/3/mnist_5k"),
            *("mnist_5k+keel/penbased", "keel/segment+keel/movement_libras"),
        ]
    ),
    "validation_datasets": "keel/vowel",
    "test_datasets": "digits,keel/letter,keel/texture",
}
FULL = {
    "datasets": ",".join(
        [
            *("mnist", "digits", "opencv_digits20.npz"),
            *("omniglot_japanese_katakana.npz", "omniglot_sanskrit.npz", "omniglot_latin.npz"),
            *("keel/letter", "keel/texture", "keel/segment", "keel/movement_libras", "keel/satimage", "keel/vowel"),
            *("doodle3.npz+mnist", "doodle3.npz+omniglot_sanskrit.npz", "mnist+omniglot_latin.npz"),
            *("omniglot_japanese_katakana.npz+digits", "opencv_digits20.npz+doodle3.npz"),
            *("teacher/0/dead_leaves", "teacher/1/dead_leaves", "teacher/2/dead_leaves"),
            *("teacher/3/mnist", "teacher/4/omniglot_japanese_katakana.npz"),
        ]
    ),
    "validation_datasets": "fsdd_spec28.npz,omniglot_greek.npz",
    "test_datasets": "fashion_mnist,notmnist10k.npz,sign_digits.npz,omniglot_korean.npz",
}
MANY = {"num_tasks": 1200, "num_children": 400, "num_distilled": 300, "num_copies": 3400}
GPU = {"runs_train": 4, "num_children": 2000, "num_distilled": 2000, "num_copies": 6000}
# By domain: glyphs, hands, clothes, sound, photographs, drawn sprites, surfaces. A source stands on one side.
MANY_SETS = {
    "datasets": ",".join(
        [
            *("mnist", "digits", "opencv_digits20.npz", "bhmsds_math_symbols.npz", "binary_alphadigits.npz"),
            *("cmater_bangla_digits.npz", "cmater_devanagari_digits.npz", "font_id.npz", "script_id.npz"),
            *("mdi_icons.npz", "desktop_icons.npz", "chess_pieces.npz", "wesnoth_terrain.npz", "wesnoth_units.npz"),
            *("asl_letters.npz", "clothing_photos.npz", "coil20.npz", "dtd_textures.npz", "flowers5.npz"),
            *("natural_images.npz", "trashnet.npz", "tin_food.npz", "tin_household.npz", "tin_invertebrates.npz"),
            *("tin_mammals.npz", "tin_structures.npz", "tin_vehicles.npz", "tin_vertebrates.npz"),
            *("dirt_samples.npz", "emodb_emotion.npz", "japanese_vowels.npz", "dna_chaos_game.npz"),
            *("file_fragments.npz", "fruit_outlines.npz", "language_bigrams.npz", "osuleaf_shapes.npz"),
            *("chula_red_cells.npz", "bccd_blood_cells.npz+elpv_solar_cells.npz"),
            *("face_mask.npz+smiles.npz+day_night.npz", "molecules_solubility.npz+italy_power_plots.npz"),
            *("doodle3.npz+mnist", "doodle3.npz+bhmsds_math_symbols.npz", "clothing_photos.npz+bccd_blood_cells.npz"),
            *("cmater_bangla_digits.npz+cmater_devanagari_digits.npz", "tin_food.npz+tin_vehicles.npz"),
            *("tin_mammals.npz+tin_household.npz", "trashnet.npz+flowers5.npz", "chess_pieces.npz+script_id.npz"),
            *("mnist+opencv_digits20.npz", "wesnoth_units.npz+tin_invertebrates.npz", "dtd_textures.npz+coil20.npz"),
            *("keel/letter", "keel/texture", "keel/segment", "keel/movement_libras", "keel/satimage", "keel/vowel"),
            *("teacher/0/dead_leaves", "teacher/1/dead_leaves", "teacher/2/dead_leaves", "teacher/3/mnist"),
        ]
    ),
    "validation_datasets": "fsdd_spec28.npz,muscima_symbols.npz,gtsrb_signs.npz,neu_steel_defects.npz",
    "test_datasets": ",".join(
        [
            *("fashion_mnist", "notmnist10k.npz", "sign_digits.npz", "omniglot_korean.npz"),
            *("wake_words.npz", "grocery_store.npz", "crawl_tiles.npz"),
        ]
    ),
}
# Two fifths of the networks are trained for three times as long: for some twenty epochs of these sets.
DIVERSE = {
    "catalogue": "many",
    "image_size": 28,
    "max_images": 2000,
    "families": "mlp,cnn_gap,cnn_flatten,cnn_pooled,vit,sequence_transformer,rnn",
    # resnet is never trained on
    "test_families": "mlp,cnn_gap,cnn_flatten,cnn_pooled,resnet,vit,sequence_transformer,rnn",
    "num_tasks": 566,
    "num_test_tasks": 14,
    "num_validation_tasks": 12,
    "num_seen_tasks": 2,
    "runs_test": 4,
    "num_children": 0,
    "num_distilled": 0,
    "num_copies": 400,
    "steps": 200,
    "stretched": 0.4,
    "stretch": 3,
}
# Sets whose licenses let their images stand in an encoder that is passed on, and drawn ones.
PERMISSIVE = ",".join(
    [
        *("mnist", "digits", "opencv_digits20.npz", "bhmsds_math_symbols.npz", "cmater_bangla_digits.npz"),
        *("cmater_devanagari_digits.npz", "font_id.npz", "script_id.npz", "mdi_icons.npz", "clothing_photos.npz"),
        *("chula_red_cells.npz", "clothing_photos.npz+bccd_blood_cells.npz", "doodle3.npz+mnist"),
        *("doodle3.npz+bhmsds_math_symbols.npz", "teacher/0/dead_leaves", "teacher/1/dead_leaves"),
    ]
)


def get_config(data: str = "packaged") -> ml_collections.ConfigDict:
    """Returns the configuration of pretraining; `data` is packaged, full, gpu or diverse.

    Raises:
      ValueError: another value of `data`.
    """
    if data not in ("packaged", "full", "gpu", "diverse"):
        raise ValueError(f"no configuration pretrain.py:{data}, choose packaged, full, gpu or diverse")
    config: Config = zoo.get_config()
    config.zoo.update({"packaged": PACKAGED, "diverse": MANY_SETS}.get(data, FULL))
    config.zoo.update(
        max_images=3000,
        num_tasks=224,
        num_test_tasks=16,
        num_validation_tasks=10,
        num_seen_tasks=8,
        catalogue="wide",
        families="mlp,cnn_gap,cnn_flatten,vit,sequence_transformer,rnn",
        test_families="mlp,cnn_gap,cnn_flatten,resnet,vit,sequence_transformer,rnn",  # resnet is never trained on
        runs_train=1,
        runs_validation=2,
        runs_test=4,
        runs_seen=1,
        num_children=80,
        num_distilled=60,
        num_copies=280,
        checkpoints=2,
        storage="array_record",
    )
    config.encoder.update(probes=384, gradient_probes=32, dim=1024)
    config.dataset_encoder.steps = 120
    config.starts.update(models=260, tasks=48)
    config.gnn.steps = 0  # it would hold every edge of the zoo in memory
    if data in ("full", "gpu"):
        config.zoo.update(MANY)
    if data == "gpu":
        config.zoo.update(GPU, max_images=10_000, steps=1000, batch_size=64, chunk_size=512)
        config.encoder.update(dtype="bfloat16", probes=512, gradient_probes=128, tile=64, batch_cost=65_536, chunk=64)
    if data == "diverse":
        config.zoo.update(DIVERSE)
        config.encoder.update(probe_size=16, probe_datasets=PERMISSIVE)
        config.encoder.update(seeds=1, steps=50, validate_every=25)  # contrastive steps gain nothing
        config.starts.update(models=120, tasks=24)
    return config
