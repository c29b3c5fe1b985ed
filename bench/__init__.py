"""Benchmarks: ``python -m bench`` prints the table of docs/benchmarks.md and draws its picture."""
