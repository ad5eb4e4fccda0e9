"""DECISIONS, all pure: members, seeds, packs, placement, policies, the schedule, and the ports that effects implement.

Nothing here reads a clock, a file, the network or global randomness; `now` comes in with each event, and each policy
returns its reason with its answer.
"""
