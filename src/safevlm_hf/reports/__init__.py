"""Pages for people: what a run reached, laid out by the templates beside this file."""
