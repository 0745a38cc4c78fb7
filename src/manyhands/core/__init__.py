"""The pure heart: events in, actions out, `now` passed in. No clock, thread, I/O, logging or randomness."""
