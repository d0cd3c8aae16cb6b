"""What an explanation costs: time, memory and stages of a model's own explanations, beside its bare forward."""
