"""
Outgoing calls: one call, to one host, with a credential that goes nowhere else, the reply searched.

    destination   what is sealed with the credential: where it may go, and in which place of the call
    match         the one predicate: may it go there?
    guard         the same question again at connect time, about addresses
    client        the call itself, redirects, limits of size and time
    websocket     the same for a connection that stays open
    reply_search  the credential's own bytes, in their common encodings, do not come back
    as_read       nor as whoever parses the reply will read it
"""
