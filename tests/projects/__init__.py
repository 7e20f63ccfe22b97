"""Little projects as their owners would write them: plain Lightning, which knows nothing of lottery."""
