"""Arrays on their way to the device that the model is on."""

import numpy as np
import torch
from torch import Tensor


def send(values: np.ndarray, device: torch.device) -> Tensor:
    """An array on a device; the caller goes on at once, and what the device was busy with does, too.

    An ordinary copy waits for the device, and several in each step would leave it idle between them.
    """
    # The driver sets memory like this aside before it answers; that of MPS reads it later.
    return torch.from_numpy(values).to(device, non_blocking=device.type != "mps")
