"""The parts of a run: configuration, record, position, folder, history, metrics and curves."""
