"""Kafka's own software, run as the judge of files: its jars, its DumpLogSegments, its broker, logs that a broker wrote.

The folder is not called `kafka`: that name would hide the kafka-python package from the tests beside it.
"""
