"""Risk and cost: what a forecast says about capacity, and what a size, a promise or a commitment costs."""
