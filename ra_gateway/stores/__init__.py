"""Transaction stores: `memory` for one process, `redis` for any number of nodes; one contract."""
