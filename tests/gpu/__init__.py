"""What only a GPU can show. `make gpu` runs these tests; with DRY=1 it runs them on the CPU."""
