"""The kinds of trees: of images and of texts, and what their children are trained on."""

from dataclasses import dataclass

_TIN = tuple(
    f"tin_{part}" for part in ("food", "household", "invertebrates", "mammals", "structures", "vehicles", "vertebrates")
)


@dataclass(frozen=True)
class Sets:
    """Names of the sets that a tree is made of.

    Attributes:
      base: that the base is trained on.
      train: that tasks to learn from are made of.
      test: that unseen tasks are made of.
      subset: whose classes the `subset` children are trained on.
    """

    base: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    subset: str

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.base, *self.train, *self.test, self.subset)


IMAGES = Sets(
    base=(
        *(*_TIN, "crawl_tiles", "wesnoth_terrain", "wesnoth_units", "font_id", "script_id", "mdi_icons"),
        *("dtd_textures", "omniglot_sanskrit", "omniglot_korean", "coil20"),
    ),
    train=(
        *("asl_letters", "bhmsds_math_symbols", "cmater_bangla_digits", "cmater_devanagari_digits", "clothing_photos"),
        *("fruit_outlines", "chess_pieces", "dirt_samples", "file_fragments", "gtsrb_signs", "natural_images"),
        *("neu_steel_defects", "language_bigrams"),
    ),
    test=(
        *("sign_digits", "notmnist10k", "opencv_digits20", "binary_alphadigits", "fsdd_spec28", "grocery_store"),
        *("flowers5", "trashnet", "chula_red_cells", "muscima_symbols", "emodb_emotion", "wake_words"),
        *("japanese_vowels", "dna_chaos_game", "elpv_solar_cells", "desktop_icons"),
    ),
    subset="omniglot_japanese_katakana",
)
TEXTS = Sets(
    base=(
        *("pycountry.locales", "torch._inductor", "torch.distributed", "torch.include.ATen", "transformers.models"),
        *("sympy.polys", "matplotlib", "pandas.core", "pygments.lexers", "plotly.graph_objs.layout", "jax._src"),
        *("onnxruntime.transformers", "pyarrow.include.arrow", "numpy._core", "fontTools.ttLib.tables"),
    ),
    train=(
        *("sympy.physics", "sympy.printing", "networkx.algorithms", "faker.providers.job", "scipy.stats", "pandas.io"),
        *("django.contrib.admin.locale", "torch._dynamo", "sphinx.search.non-minified-js", "transformers.pipelines"),
    ),
    test=(
        *("sphinx.locale", "faker.providers.person", "faker.providers.address", "sympy.combinatorics", "numpy.lib"),
        *("scipy.optimize", "networkx.generators", "setuptools._distutils", "django.core", "torch.optim"),
    ),
    subset="django.conf.locale",
)
