"""Evolutionary search over sub-networks (TODM: arXiv 2309.01947; Cai et al. 2020, 1908.09791).

Parents come from the frontier of all that has been scored; a child is a mutation of one of them or
a crossover of two. What breaks a constraint, or is known, is drawn again.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import torch

from pocketscribe.models.subnets import Space, one_of
from pocketscribe.search.frontier import Candidate, Costs, best

TRIES = 50  # draws for one child; where all are known or too large, the space is small
FORMATS = "formats"
SHARES = (0.0, 1.0, 0.5, 0.25, 0.75)  # of every dimension, in an evenly shrunk sub-network

Genes = dict[str, int]


class Evolution:
    """Proposes candidates, generation by generation: a function of seed and scores alone."""

    def __init__(
        self,
        space: Space,
        formats: Sequence[str],
        allowed: Callable[[Candidate], bool],
        *,
        mutation: float,
        seed: int,
    ) -> None:
        """`mutation` is the share of genes that a mutation draws anew."""
        self.space, self.formats, self.allowed, self.mutation = space, formats, allowed, mutation
        self.genes = {**space.genes, FORMATS: tuple(range(len(formats)))}
        self.generator = torch.Generator().manual_seed(seed)
        self.proposed: dict[Candidate, Genes] = {}

    def first(self, count: int) -> list[Candidate]:
        """Evenly shrunk sub-networks in all formats, which a search is to beat; random ones."""
        even = [
            {**self.space.even(share), FORMATS: index}
            for share in SHARES
            for index in range(len(self.formats))
        ]
        allowed = (c for genes in even if (c := self._new(genes)) is not None)
        found = list(islice(allowed, count))
        return found + self._children(count - len(found), self._random)

    def next(self, costs: Mapping[Candidate, Costs], count: int) -> list[Candidate]:
        """Children of the best by `costs`: half by mutation, half by crossover."""
        parents = [self.proposed[candidate] for candidate in best(costs)]

        def one() -> Genes:
            return parents[self._number(len(parents))]

        def mutated() -> Genes:
            genes = one()
            return {
                gene: one_of(sizes, self.generator) if self._chance(self.mutation) else genes[gene]
                for gene, sizes in self.genes.items()
            }

        def crossed() -> Genes:
            mother, father = one(), one()
            return {gene: (mother if self._chance(0.5) else father)[gene] for gene in self.genes}

        found = self._children(count - count // 2, mutated)
        return found + self._children(count // 2, crossed)

    def _children(self, count: int, draw: Callable[[], Genes]) -> list[Candidate]:
        found: list[Candidate] = []
        for _ in range(max(count, 0)):
            tries = (self._new(draw()) for _ in range(TRIES))
            child = next((c for c in tries if c is not None), None)
            if child is not None:
                found.append(child)
        return found

    def _new(self, genes: Genes) -> Candidate | None:
        """The candidate of some genes, unless it is known or not allowed."""
        candidate = Candidate(sizes=self.space.sizes(genes), formats=self.formats[genes[FORMATS]])
        if candidate in self.proposed or not self.allowed(candidate):
            return None
        self.proposed[candidate] = genes
        return candidate

    def _random(self) -> Genes:
        return {gene: one_of(sizes, self.generator) for gene, sizes in self.genes.items()}

    def _number(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator))

    def _chance(self, share: float) -> bool:
        return torch.rand((), generator=self.generator).item() < share
