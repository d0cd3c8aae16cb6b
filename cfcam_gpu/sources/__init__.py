"""Where photographs come from: what a SOURCE means, and the processes that read it."""
