"""What a run means and what to do next: pure code. Nothing here waits, reads a clock, draws a number, or knows an SDK.

Time and randomness come in as arguments, so all that is hard here can be tested without a loop.

    status      the eight words for where a run stands
    model       what travels between the rooms: references, requests, snapshots, stream events
    position    how far a run's stream has come: sequence, cursor, and a digest of the delivered text
    assembly    events and snapshots in, updates out: duplicates, gaps, replays, restarts, the missing tail
    update      one step of a run as users see it
    response    the answer as users see it
    states      phases, signals and the table of the run machine
    token       an update's position as text that another process can resume from
    schedule    when to poll: bounds, jitter, hints, fault backoff
    intervals   the schedules: fixed, exponential, adaptive
    hazard      how likely a run is to end, by its age: learned
    life        what a process sees of a round, and what that teaches
    queue       which run is due next
    messages    observations in, commands out
    run         the machine at work: it ties these together
    record      the durable part of a run
    sse         bytes to server-sent events, across any cut
"""
