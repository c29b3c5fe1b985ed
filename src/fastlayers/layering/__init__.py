"""Layer plans, and the strategies that make them: one module for each."""
