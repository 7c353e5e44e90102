"""A model of PyTorch with random weights, its checkpoint, and its outputs in float64 for other tensors of that file.

Whoever imports this module needs the extra `permcheck`.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from experiments.proofs.architectures import Architecture, Inputs

FILE = "model.safetensors"
SEED = 0  # of weights and inputs
FELT = 1e-5  # relative change of the outputs, for a change of a tensor by its own size, that tells that it matters


class RandomModel:
    """A model whose weights and statistics are random, in a folder as its users save it.

    Attributes:
      path: of the checkpoint, float32; a `config.json` lies beside it where the model has one.
      convolutions: names of the tensors in it that are kernels.
      felt: share of the parameters that the outputs react to measurably; a false claim about others would not show.
    """

    def __init__(self, architecture: Architecture, folder: Path):
        """Builds the model and writes it to an empty folder."""
        torch.manual_seed(SEED)
        model = architecture.build().float()
        self._inputs = architecture.feed()
        randomise(model)
        with torch.no_grad():
            measure_batch_norms(model, self._inputs)
        self._model: Any = model.eval()  # models of transformers have methods that modules lack
        self.path = folder / FILE
        if self._of_transformers:
            self._model.save_pretrained(folder)
        else:
            names = {(t.data_ptr(), t.shape): name for name, t in reversed(model.state_dict().items()) if t.numel()}
            shared = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if tensor.numel()}
            save_file({name: shared[name] for name in names.values()}, self.path)  # tied tensors once
        self._tensors = load_file(self.path)
        self._moved = folder / "moved"
        self._outputs = self._run(self._with({}))
        kernels = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, _ConvNd)}
        self.convolutions = kernels & self._tensors.keys()
        self.felt = self._share_felt()

    @property
    def _of_transformers(self) -> bool:
        return hasattr(self._model, "save_pretrained")

    def error(self, tensors: Mapping[str, np.ndarray]) -> float:
        """Relative error of the outputs, Euclidean, with these tensors of the file instead of its own."""
        outputs = self._run(self._with({name: torch.from_numpy(np.array(t)) for name, t in tensors.items()}))
        return float((outputs - self._outputs).norm() / self._outputs.norm())

    def _with(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The model in float64 with these tensors, the way a user would load them."""
        state = {name: tensors.get(name, tensor) for name, tensor in self._tensors.items()}
        state = {name: t.double() if t.is_floating_point() else t for name, t in state.items()}
        if not self._of_transformers:
            self._model.double().load_state_dict(state, strict=False)  # the other names of tied tensors follow
            return self._model
        self._moved.mkdir(exist_ok=True)
        self._model.config.save_pretrained(self._moved)
        save_file(state, self._moved / FILE, metadata={"format": "pt"})
        options = {"dtype": torch.float64, "experts_implementation": "eager"}  # fused experts know no float64
        model, loading = type(self._model).from_pretrained(self._moved, output_loading_info=True, **options)
        if any(loading.values()):
            raise RuntimeError(f"{self.path}: not loaded as it was saved: {loading}")
        return model.eval()

    def _run(self, model: nn.Module, gradients: bool = False) -> Tensor:
        with torch.set_grad_enabled(gradients), _all_double():
            return logits_of(model, self._inputs)

    def _share_felt(self) -> float:
        """By the derivatives of the outputs in a random direction."""
        model = self._with({})
        parameters = list(model.parameters())
        outputs = self._run(model, gradients=True)
        slopes = torch.autograd.grad(
            (outputs * torch.randn_like(outputs)).sum() / outputs.detach().norm(), parameters, allow_unused=True
        )
        felt = [
            p.numel()
            for p, slope in zip(parameters, slopes, strict=True)
            if slope is not None and float(slope.norm() * p.detach().norm()) / p.numel() ** 0.5 > FELT
        ]
        return sum(felt) / sum(p.numel() for p in parameters)


def logits_of(model: nn.Module, inputs: Inputs) -> Tensor:
    """Outputs of a model, in the precision of its parameters."""

    def typed(value: Tensor) -> Tensor:
        return value.to(next(model.parameters()).dtype) if value.is_floating_point() else value

    if isinstance(inputs, dict):
        return model(**{name: typed(value) for name, value in inputs.items()}).logits
    outputs = model(*map(typed, inputs))
    return getattr(outputs, "logits", outputs)


def randomise(model: nn.Module) -> None:
    """Draws all parameters: matrices that keep the size of what they read, gains about 1, large vectors."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            noise = torch.randn_like(parameter)
            if name == "weight" and parameter.ndim == 1:  # of a norm
                value = 0.5 + torch.rand_like(parameter)
            elif parameter.ndim == 1:
                value = 0.3 * noise
            elif isinstance(module, nn.Embedding):
                value = 0.7 * noise
            else:
                value = noise / _fan_in(module, parameter) ** 0.5
            parameter.data.copy_(value)


def _fan_in(module: nn.Module, weight: Tensor) -> int:
    if isinstance(module, _ConvNd):
        return weight.numel() // weight.shape[1 if isinstance(module, _ConvTransposeNd) else 0]
    return weight.shape[0 if type(module).__name__ == "Conv1D" else -1]  # transformers' Conv1D is a transposed linear


def measure_batch_norms(model: nn.Module, inputs: Inputs) -> None:
    """Sets the statistics of batch norms near those of what reaches them, so that none saturates; ends in `eval`."""
    norms = [module for module in model.eval().modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the statistics of this one batch
    logits_of(model, inputs)
    for norm in norms:
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None:
            continue
        variance.clamp_(min=0.1 * float(variance.mean()))  # of channels that a ReLU shuts
        mean.add_(0.3 * variance.sqrt() * torch.randn_like(variance))
        variance.mul_(0.5 + torch.rand_like(variance))
    model.eval()


class _Double(TorchFunctionMode):
    """Computes in float64 where a model asks for float32 by name, as norms and rotary angles do."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def wide(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        func = torch.Tensor.double if func is torch.Tensor.float else func
        return func(*map(wide, args), **{name: wide(value) for name, value in (kwargs or {}).items()})


@contextlib.contextmanager
def _all_double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Double():
            yield
    finally:
        torch.set_default_dtype(before)
