"""The coordinator: ServerApp, rounds, LocalGrid, checkpoints."""
