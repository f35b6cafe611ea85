"""N-gram language models over a recogniser's units: learnt, kept in a file, walked by a search."""
