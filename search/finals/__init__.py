"""The final evaluation of a search: finalists and baselines selected, measured, trained, exported, tested."""
