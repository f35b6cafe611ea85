"""Where PyTorch computes."""

import torch

from pocketscribe.errors import UserError


def choose_device(name: str) -> torch.device:
    """Raises UserError where there is no such device here."""
    if name not in ("cpu", "cuda", "auto"):
        raise UserError(f"--device {name}: choose cpu, cuda or auto")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("--device cuda: PyTorch sees no GPU here; use cpu or auto")
    return torch.device("cuda" if there and name != "cpu" else "cpu")
