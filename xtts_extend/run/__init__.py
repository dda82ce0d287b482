"""What a run is: its configuration, record, position, folder, history, metrics and curves."""
