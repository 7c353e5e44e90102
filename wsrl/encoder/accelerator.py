"""Whether JAX has an accelerator on this machine."""

from importlib.metadata import entry_points
from importlib.util import find_spec


def has_accelerator() -> bool:
    """Whether JAX computes on anything but CPUs.

    JAX is asked, and so imported, only where one of the plug-ins is installed by which it knows other devices: to
    import it takes as long as to embed a hundred small networks.
    """
    if find_spec("libtpu") is None and find_spec("jax_plugins") is None and not entry_points(group="jax_plugins"):
        return False
    import jax

    return jax.default_backend() != "cpu"
