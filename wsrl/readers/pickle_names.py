"""Names in pickles that are there to run code, refused even where nothing calls them.

The list is for clear messages; safety does not rest on it, as no name of a pickle is ever imported or called.
"""

RUNNING = frozenset(
    (
        *("os", "posix", "nt", "ntpath", "posixpath", "sys", "subprocess", "commands", "shutil", "socket", "signal"),
        *("pty", "runpy", "importlib", "imp", "pkgutil", "pickle", "_pickle", "cPickle", "cloudpickle", "dill"),
        *("joblib", "marshal", "ctypes", "_ctypes", "cffi", "code", "codeop", "pdb", "bdb", "profile", "cProfile"),
        *("trace", "timeit", "doctest", "asyncio", "multiprocessing", "threading", "_thread", "operator"),
        *("_operator", "functools", "types", "inspect", "gc", "site", "pip", "ensurepip", "venv", "setuptools"),
        *("distutils", "webbrowser", "platform", "pydoc", "idlelib", "http", "urllib", "requests"),
        *("ftplib", "smtplib", "ssl", "tempfile", "glob", "io", "_io", "numpy.testing", "numpy.f2py", "torch.hub"),
        *("torch.jit", "torch.package", "torch.serialization", "torch.utils.cpp_extension"),
    )
)
# Packages whose objects hold no network, and what to call them; those of sklearn.neural_network do.
FOREIGN = {
    **{"sklearn": "scikit-learn", "xgboost": "XGBoost", "lightgbm": "LightGBM", "catboost": "CatBoost"},
    **{"spacy": "spaCy", "gensim": "gensim", "tokenizers": "a tokenizer", "pandas": "pandas", "nltk": "NLTK"},
    **{"statsmodels": "statsmodels", "imblearn": "imbalanced-learn", "hmmlearn": "hmmlearn", "crfsuite": "CRFsuite"},
}
NETWORKS = ("sklearn.neural_network",)
ARRAYS_OUTSIDE = "joblib.numpy_pickle"  # its pickles have arrays between their opcodes
INERT = ("functools.partial",)  # settings of training scripts hold it; what it would call is refused by its own name
BUILTINS = ("builtins", "__builtin__", "__builtins__")
HARMLESS = (
    *("set", "frozenset", "list", "dict", "tuple", "int", "long", "float", "bool", "str", "unicode", "bytes"),
    *("bytearray", "complex", "object", "slice", "range"),
)


def runs_code(module: str, attribute: str) -> bool:
    """Whether a module runs what it is told, or a builtin does."""
    if module in BUILTINS:
        return attribute not in HARMLESS
    if f"{module}.{attribute}" in INERT:
        return False
    parts = module.split(".")
    return any(".".join(parts[:n]) in RUNNING for n in range(1, len(parts) + 1))


def foreign(name: str) -> str | None:
    """What a class, as in pickles.Global, belongs to that is no network; None if it may be one."""
    return None if name.startswith(NETWORKS) else FOREIGN.get(name.partition(".")[0])
