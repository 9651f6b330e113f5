"""What the processes on the vehicle say, shown to a person beside it and to Prometheus. They know nothing of this."""
