"""Reinforcement learning: an agent that learns how many servers to run from bills."""
