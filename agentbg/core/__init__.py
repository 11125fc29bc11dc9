"""What a run means and what to do next: pure code. Nothing here waits, reads a clock, draws a number, or knows an SDK.

Time and randomness come in as arguments, so all that is hard here can be tested without a loop.

    status      the eight words for where a run stands
    model       what travels between the rooms: references, requests, snapshots, stream events
    position    how far a run's stream has come: sequence, cursor, and a digest of the delivered text
    requests    what a run asks of us on its way, and how it is answered
    rounds      a run that asks for calls, is answered, and goes on: the data
    assembly    events and snapshots in, updates out: duplicates, gaps, replays, restarts, the missing tail
    update      one step of a run as users see it
    response    the answer as users see it
    states      phases, signals and the table of the run machine
    token       an update's position as text that another process can resume from
    dialogue    a run's rounds as they go
    moves       the commands of each row of the table
    bounds      how long a run may last, and stand still
    contact     how our contact with a run's service stands, and when to seek it again
    endings     what follows when the service has done its part
    schedule    when to poll: bounds, jitter, hints, fault backoff
    intervals   the schedules: fixed, exponential, adaptive
    hazard      how likely a run is to end, by its age: learned
    life        what a process sees of a round, and what that teaches
    queue       which run is due next
    budget      how many requests may be sent to a service, and when
    turns       whose turn it is, where many wait
    pace        how fast a service may be asked, by how it answers
    messages    observations in, commands out
    run         the machine at work: it ties these together
    record      the durable part of a run
    sse         bytes to server-sent events, across any cut
"""
