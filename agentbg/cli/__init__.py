"""The command line: start a run here, take its answer there.

exits     what the exit codes mean
agents    what a stored run needs so that another process can rebuild its agent
watched   a run of the store, whoever owns the store
screen    what people and pipes get to see
work      what each command does
app       the commands themselves
"""


def main() -> None:
    """The entry point of `agentbg`."""
    from .app import app

    app()
