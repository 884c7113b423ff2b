"""Fuzzing: whatever octets come, the gateway answers, and does nothing for whom it does not know."""
