"""One training loop; what a step computes is an objective, chosen by the stage."""
