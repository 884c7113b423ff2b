"""Sans-IO CMP: bytes, certificates and times come in as arguments; nothing here opens, waits or draws."""
