"""``python -m papilio.bench``: collectives measured side by side with any other c10d backend.

``flags`` and ``cli`` read the nccl-tests letters, ``supervise`` starts the ranks and keeps them in
step through pipes, ``worker`` runs and verifies the collectives, ``stats`` summarises, ``report``,
``output`` and ``plots`` show.
"""
