"""A simulated base station: what a real one does when it enrols and renews, and checks."""
