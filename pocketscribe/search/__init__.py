"""Finding the best of a supernet's sub-networks for every size: sizes, bits and N:M together."""
