"""The rows of the benchmarks: a module each, with the function that measures it."""
