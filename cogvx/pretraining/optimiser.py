"""The optimiser of pretraining: matrices turn by orthogonal updates, everything else by Adam.

A toy on two cores pays for every step, and orthogonal updates need about half as many as Adam.
Fine-tuning of adapters stays with AdamW, as the models' authors have it: see `cogvx.training`.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cogvx.errors import IntegrityError

_MOMENTUM = 0.95
_BETAS, _EPSILON = (0.9, 0.99), 1e-8
_SMALLEST_SIDE = 16  # of a matrix that is worth turning; readouts of few channels are left to Adam
_LIKE_ADAM = 0.2  # size of an update's elements, so that both kinds take one rate
_POLYNOMIAL, _ROUNDS = (3.4445, -4.7750, 2.0315), 5
_WARMUP_STEPS, _DECAY_SHARE = 50, 0.35


class Optimiser:
    """Update parameters in place from their gradients, with one rate for all.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the
    update's size is that of arXiv:2502.16982.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Begin without any momentum."""
        self._parameters = dict(parameters)
        self._steps = 0
        self._slots = {
            f"{name}/{slot}": torch.zeros_like(parameter)
            for name, parameter in self._parameters.items()
            for slot in (("momentum",) if _is_turned(name, parameter) else ("mean", "square"))
        }

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take one step and forget the gradients; a parameter without one stays."""
        self._steps += 1
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                continue
            if _is_turned(name, parameter):
                self._turn(name, parameter, rate)
            else:
                self._adam(name, parameter, rate)
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, besides the parameters, as named tensors."""
        return {**self._slots, "steps": torch.tensor(self._steps)}

    def set_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave.

        Raises:
            IntegrityError: It is the state of an optimiser of other parameters.
        """
        if state.keys() != self.state().keys():
            raise IntegrityError("the optimiser's state is that of other parameters")
        self._steps = int(state["steps"])
        for name, slot in self._slots.items():
            slot.copy_(state[name])

    def _turn(self, name: str, parameter: nn.Parameter, rate: float) -> None:
        gradient = parameter.grad
        assert gradient is not None
        momentum = self._slots[f"{name}/momentum"].lerp_(gradient, 1 - _MOMENTUM)
        matrix = _orthogonal(gradient.lerp(momentum, _MOMENTUM).flatten(1))
        size = _LIKE_ADAM * math.sqrt(max(matrix.shape))
        parameter.add_(matrix.view_as(parameter), alpha=-rate * size)

    def _adam(self, name: str, parameter: nn.Parameter, rate: float) -> None:
        gradient = parameter.grad
        assert gradient is not None
        mean = self._slots[f"{name}/mean"].lerp_(gradient, 1 - _BETAS[0])
        square = self._slots[f"{name}/square"].lerp_(gradient.square(), 1 - _BETAS[1])
        young = [1 - beta**self._steps for beta in _BETAS]
        divisor = (square / young[1]).sqrt_().add_(_EPSILON)
        parameter.addcdiv_(mean, divisor, value=-rate / young[0])


def rate_at(step: int, *, steps: int, highest: float) -> float:
    """Rate of update `step`, from 0: a short climb, a plateau, then a straight way down to nothing.

    On the plateau it does not depend on `steps`, so a run can be cut short and still be repeated.
    """
    left = (steps - step) / max(1.0, steps * _DECAY_SHARE)
    return highest * min(1.0, (step + 1) / _WARMUP_STEPS, left)


def _is_turned(name: str, parameter: nn.Parameter) -> bool:
    if parameter.dim() < 2 or "shared" in name or "embed_tokens" in name:
        return False
    return min(len(parameter), parameter[0].numel()) >= _SMALLEST_SIDE


def _orthogonal(matrix: Tensor) -> Tensor:
    """About `U V'` of the matrix's singular value decomposition, in a few products."""
    tall = matrix.shape[0] > matrix.shape[1]
    turned = matrix.T if tall else matrix
    turned = (turned / (turned.norm() + 1e-7)).bfloat16()  # direction matters, not digits
    first, third, fifth = _POLYNOMIAL
    for _ in range(_ROUNDS):
        square = turned @ turned.T
        turned = first * turned + (third * square + fifth * square @ square) @ turned
    updates: Tensor = (turned.T if tall else turned).float()
    return updates
