"""From encoder frames to text: greedy and beam search, offline and streaming."""
