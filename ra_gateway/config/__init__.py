"""The configuration file: what may stand in it, and everything that is wrong with one.

`load` reads TOML into frozen pydantic models. Shape, ranges, cross-references, and existence and
permissions of files are checked here, all of them before anything is reported; certificates are
parsed by `app`, not here.

There are two kinds of checks. What one value must be stands in `ra_gateway.settings` and `values`, and at
its field in one of the `tables` (`service_tables`, `trust_tables` and `ca_tables` hold some of them; those of
upstreams are in `ra_gateway.upstream`, one with each kind). What several
values must be together stands in one of the `rules` over the raw tables, so that it is reported even
when another value of the same table is wrong. `problems` words the problems, `reading` puts it together.

Secrets never stand in the file: it names files that only their owner may read. The text of a
`Problem` therefore never repeats a value that might be a secret.
"""
