"""A training step of each encoder family at equal parameters: python benchmarks/encoders.py

One step is forward, losses, backward and optimiser, as in `training_step`: of a Conformer, and of
an MH-SSM whose width makes up for the one map less that its block has. Taken in turns, with medians
of time on the clock; each family is given as its heads and width.
"""

import platform

import torch
import typer
from training_step import CONTEXT, ROUNDS, UNITS, in_turns, make_batch, make_step

from pocketscribe.models import ModelConfig, Recogniser, stored_parameters
from pocketscribe.training.objectives import LossConfig, Plain
from pocketscribe.training.optimisers import OptimiserConfig, build_optimiser


def main(
    conformer: tuple[int, int] = (4, 176),
    mhssm: tuple[int, int] = (6, 180),
    layers: int = 6,
    utterances: int = 16,
    longest: int = 500,
) -> None:
    torch.manual_seed(0)
    batch = make_batch(utterances, longest)
    steps, sizes = {}, {}
    for family, (heads, width) in {"conformer": conformer, "mhssm": mhssm}.items():
        encoder = {"family": family, "heads": heads, "width": width, "layers": layers}
        model = Recogniser(ModelConfig.read({"encoder": encoder}, "the options"), UNITS)
        ours = Plain(model, LossConfig()).train()
        optimiser = build_optimiser(OptimiserConfig(), ours.named_parameters())
        steps[family] = make_step(
            lambda ours=ours: ours(batch, CONTEXT)["loss"], optimiser, batch.total_frames
        )
        sizes[family] = stored_parameters(model) / 1e6
    threads = torch.get_num_threads()
    print(f"{platform.machine()}, torch {torch.__version__}, {threads} threads, float32")
    print(f"one step, {batch.seconds:.0f} s of speech, B{utterances}, median of {ROUNDS}")
    times = in_turns(*steps.values())
    for (family, size), ms in zip(sizes.items(), times, strict=True):
        print(f"  {family:10} {ms:7.0f} ms {size:6.2f} M weights {ms / times[0]:6.2f} x as long")


if __name__ == "__main__":
    typer.run(main)
