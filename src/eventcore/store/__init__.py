"""A folder of topics: a Kafka log directory."""
