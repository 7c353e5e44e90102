"""Whether a model found by its weights makes a better start on unseen data: sources, targets and how both are trained.

Command: python -m experiments.transfer --config=configs/transfer.py --workdir=runs/transfer \
    --config.data_dir=DATA_DIR

DATA_DIR holds the sets as `.npz` files with arrays `x` and `y`, in folders of any depth. Each source trains every
architecture of `experiments.transfer.sources`. Targets come from other collections than all sources; what is chosen is
chosen on the validation targets.

Cost: some 20 CPU minutes, 11 for the sources; measured at eb2d0e6 on a core that was shared.

Result at 10 labeled images a class, heads fitted to the features: random weights .48, a random pick .56, nearest to the
data's vector .56, most classes .62, LogME of the five networks of most classes .65, LogME of all .66; eb2d0e6.
"""

import ml_collections

PHOTOS = "tin_food tin_household tin_invertebrates tin_mammals tin_structures tin_vehicles tin_vertebrates"


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration of the transfer experiment."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.data_dir = ""  # folder of the .npz files
    config.image_size = 32  # pixels a side, gray

    # Sources: NAME, or NAME=SET+SET for sets that are joined. Those of `mirrored` are also trained on mirror images.
    config.sources = ",".join(
        [
            "tiny_imagenet=" + "+".join(PHOTOS.split()),
            "omniglot=omniglot_japanese_katakana+omniglot_sanskrit+omniglot_korean+omniglot_latin+omniglot_greek",
            *("natural_images", "mdi_icons", "dtd_textures", "asl_letters", "grocery_store"),
            "sounds=fsdd_spec28+dirt_samples",
            "game_art=crawl_tiles+wesnoth_terrain+wesnoth_units",
            *("notmnist10k", "file_fragments", "gtsrb_signs", "fonts=font_id+script_id", "clothing_photos"),
            *("bhmsds_math_symbols", "tin_mammals"),
        ]
    )
    config.mirrored = "tiny_imagenet,tin_mammals,natural_images,grocery_store,clothing_photos,dtd_textures,game_art"
    config.steps = 1500  # of training on a source
    config.long_steps = 4000  # on a source of at least `long_images`
    config.long_images = 3000
    config.batch_size = 32  # images
    config.learning_rate = 2e-3  # of AdamW, the highest of the schedule
    config.weight_decay = 0.05

    # Targets: SET=SOURCE, the source that a person would take for it, named before anything was measured.
    config.validation_targets = (
        "cmater_bangla_digits=omniglot,cmater_devanagari_digits=omniglot,flowers5=natural_images,smiles=natural_images,"
        "elpv_solar_cells=dtd_textures,emodb_emotion=sounds,bccd_blood_cells=dtd_textures,"
        "dna_chaos_game=file_fragments,desktop_icons=mdi_icons"
    )
    config.test_targets = (
        "opencv_digits20=omniglot,muscima_symbols=omniglot,doodle3=mdi_icons,trashnet=grocery_store,"
        "face_mask=natural_images,sign_digits=asl_letters,neu_steel_defects=dtd_textures,chula_red_cells=dtd_textures,"
        "language_bigrams=file_fragments,molecules_solubility=mdi_icons,wake_words=sounds"
    )
    config.tuned = "10,5,50"  # labeled images a class at which starts are fine-tuned on test targets
    return config
