"""`python -m agentbg` is `agentbg`."""

from .cli import main

main()
