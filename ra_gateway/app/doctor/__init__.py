"""The doctor: looks at everything around a gateway, without having anything issued, and says what to change."""
