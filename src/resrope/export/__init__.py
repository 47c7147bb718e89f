"""Writing extended models: one module per engine."""
