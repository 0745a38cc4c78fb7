"""The only place that joins scheduler and workers: the lock, the timer, who is told, and how it all ends."""
