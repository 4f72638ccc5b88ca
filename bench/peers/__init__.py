"""eventcore beside what else a Python program could use: `python -m bench.peers`; docs/benchmarks.md says what it does.

`records` and `stores` are the workload and the adapters; `appends`, `durable`, `reads`, `codec`, `latency` and `twins`
ask the questions; `rounds` measures, `goals` judges, `tables` and `plot` show.
"""
