"""What a CUDA GPU makes of it all: `make gpu` runs the parts of one of two stages, each in a process of its own."""
