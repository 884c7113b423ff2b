"""The registration authority itself: the pipeline, its policy and the transaction state machine."""
