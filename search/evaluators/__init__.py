"""Evaluators: how good a network is, without training it to the end."""
