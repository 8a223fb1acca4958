"""Wrong losses with names: what a target's numbers are compared with to say what is wrong in it."""
