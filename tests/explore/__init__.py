"""Every interleaving of gateways, a store, a CA and a device, within bounds: the real pipeline between its awaits."""
