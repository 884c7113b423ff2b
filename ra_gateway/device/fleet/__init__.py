"""A fleet of simulated base stations: how many come when, what they do, and what came of it."""
