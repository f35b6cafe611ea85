"""Chunk masks against their definition, and which chunkings a config allows."""

import pytest
import torch

from pocketscribe.errors import UserError
from pocketscribe.models import ChunkConfig, Chunking
from pocketscribe.models.chunks import chunk_mask


@pytest.mark.parametrize("chunking", [(1, 0), (1, 3), (3, 0), (3, 3), (4, 8), (8, 64), (None, 0)])
@pytest.mark.parametrize("length", [1, 7, 12])
def test_mask_is_the_written_definition(chunking: tuple[int | None, int], length: int) -> None:
    size, left = chunking
    frames = [length, max(length - 4, 0)]
    mask = chunk_mask(torch.tensor(frames), length, Chunking(size, left))
    assert mask.shape == (2, 1, length, length)
    for b in range(2):
        for i in range(length):
            for j in range(length):
                sees = j < frames[b]
                if size is not None:
                    sees = sees and 0 <= i // size - j // size <= left // size
                assert mask[b, 0, i, j].item() == sees, (b, i, j)


def test_chunkings_and_the_streaming_one() -> None:
    config = ChunkConfig(sizes=("full", 4, 8), left=16)
    assert config.chunkings == (Chunking(None), Chunking(4, 16), Chunking(8, 16))
    assert config.streaming == Chunking(4, 16)  # the first that can stream
    assert ChunkConfig(sizes=("full",)).streaming == Chunking(None)
    assert ChunkConfig(sizes=(4,), left=0).streaming == Chunking(4, 0)
    assert [str(c) for c in config.chunkings] == ["full", "160 ms", "320 ms"]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"sizes": []}, "chunks.sizes is empty; give at least one size or 'full'"),
        ({"sizes": [8, 12]}, "chunks.left = 64 is not a multiple of the chunk size 12"),
        ({"sizes": [128]}, "chunks.left = 64 is not a multiple of the chunk size 128"),
        ({"sizes": [0]}, "chunks.sizes: 0 is no length; give 1 to 1024, or 'full'"),
        ({"sizes": [-8]}, "chunks.sizes: -8 is no length; give 1 to 1024, or 'full'"),
        ({"sizes": [2.5]}, "sizes.0 = 2.5: input should be a valid integer or 'full'"),
        ({"left": -8}, "left = -8: input should be greater than or equal to 0"),
    ],
)
def test_impossible_chunks_are_refused(data: dict, line: str) -> None:
    with pytest.raises(UserError) as caught:
        ChunkConfig.read(data, "x.toml")
    assert str(caught.value) == f"x.toml: {line}"
