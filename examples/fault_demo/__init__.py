"""The demo of examples/demo.py: a supervisor that hurts a training job from outside and then tells
from the logs what happened.

``job`` starts ranks and injects faults, ``history`` reads what they left, ``timeline`` and
``summary`` show it, ``checks`` decides whether every promise held, ``plot`` draws it.
Times are seconds; wall times are ``time.time()``; ``t`` means seconds since the job's start.
"""
