"""A running mean of the adapter's weights, which is smoother than where the last update led."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cogvx.errors import IntegrityError

_UPDATES = "updates"


class Ema:
    """The mean, of which each update keeps a share: `m <- m + (1 - d) (w - m)`.

    The share `d` is the recipe's, but at first min(d, (1 + n) / (10 + n)) after n updates: the
    start, which was never trained, is soon forgotten. Both the mean and n stay on the device, in
    float32 and as a whole number, so that a skipped update is left out without asking the device.

    Source: TensorFlow `ExponentialMovingAverage` for the warm-up.
    """

    _parameters: dict[str, nn.Parameter]
    _means: dict[str, Tensor]
    _updates: Tensor
    _least: float

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Begin at the weights as they are; `parameters` are float32 and on one device."""
        self._parameters = dict(parameters)
        self._means = {name: value.detach().clone() for name, value in self._parameters.items()}
        device = next(iter(self._parameters.values())).device
        self._updates = torch.zeros((), dtype=torch.int64, device=device)
        self._least = 1 - decay

    @torch.no_grad()
    def update(self, taken: Tensor) -> None:
        """Let in the weights after an update, or nothing where `taken`, on the device, is false."""
        weight = (9 / (10 + self._updates)).clamp(min=self._least) * taken
        means = list(self._means.values())
        weights: list[Tensor] = list(self._parameters.values())
        steps = torch._foreach_sub(weights, means)  # noqa: SLF001 - swa_utils wants no tensor here
        torch._foreach_mul_(steps, weight)
        torch._foreach_add_(means, steps)
        self._updates += taken

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters hold the mean while the block lasts, and then themselves again.

        Nothing is copied, so it costs neither memory nor a bit.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """Copies on the CPU: the mean by the parameters' names, and the count of updates."""
        kept = {**self._means, _UPDATES: self._updates}
        return {name: tensor.detach().cpu().clone() for name, tensor in kept.items()}

    def set_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave.

        Raises:
            IntegrityError: A tensor is missing, unexpected or of another shape; nothing is changed.
        """
        kept = {**self._means, _UPDATES: self._updates}
        odd = sorted(kept.keys() ^ state.keys())
        odd += [name for name in kept if name in state and state[name].shape != kept[name].shape]
        if odd:
            raise IntegrityError(f"the mean of the weights does not fit: {odd[0]} and others")
        for name, tensor in kept.items():
            tensor.copy_(state[name])

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self._means[name] = self._means[name], parameter.data
