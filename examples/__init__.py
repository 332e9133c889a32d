"""Worked targets: ViTs that nobody here wrote, held against the reference. `docs/targets.md` walks through them."""
