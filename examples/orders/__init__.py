"""A shop whose orders survive `kill -9`, of the worker and of the database. Run it: `python -m examples.orders`.

Read workflows.py first: it is what a user of pgdurable writes. worker.py runs it. The rest makes life hard for it
(chaos.py, doubles.py), watches (display.py) and proves that nothing was lost or done twice (proof.py).
"""
