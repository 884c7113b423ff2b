"""CRLs and OCSP answers of trust domains: the former fetched in the background, the latter when they are wanted."""
