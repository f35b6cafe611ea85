"""From a folder of speech and a number of bytes to a recogniser: look, plan, go."""
