"""The gateway's audit trail: what was told (`ra_gateway.events`) and what people did, as a chain of records in SQL."""
