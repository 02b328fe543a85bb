"""The rates of loader, training, converting and composing on the machine at hand."""
