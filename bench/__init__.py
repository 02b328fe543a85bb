"""What Sluice costs: rates of loader and training, on the machine at hand."""
