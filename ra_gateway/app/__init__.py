"""The composition roots: from a configuration to running services; `app.ca` has those that need the extra `ca`."""
