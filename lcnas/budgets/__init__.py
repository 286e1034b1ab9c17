"""x."""
from lcnas.budgets._terms import Terms
__all__=["Terms"]
