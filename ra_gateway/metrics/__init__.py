"""Metrics for Prometheus: what is exposed (`families`), and what counts and collects it (`collecting`)."""

from ra_gateway.metrics.collecting import Metrics as Metrics
