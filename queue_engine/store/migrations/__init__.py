"""Migrations of the data, one numbered step in each file, in the order in which they are done.

Step N brings data of format N - 1 to format N. The leading controller runs it page by page, while everything else
works on: see `migrator`. To change the data format:

1. Write `step_NNNN_<what>.py` with a `Migration`, and append it to MIGRATIONS. Its number is the new DATA_FORMAT.
2. A step only adds. Processes of format N - 1, the agents among them, go on beside data that is migrated, so what they
   read stays as it is. What N - 1 alone reads may be removed by step N + 1.
3. The code of this version reads both formats; what reads N - 1 alone may be removed with the next format.
4. A page is idempotent, because it is repeated when the leader dies. It changes each record in one script that looks
   whether the record is still there and still has the old form. The script is in the step's file, and goes with it.
5. Record a dump of the new format (`tests/upgrade/record.py`). The dumps of all formats are upgraded in the tests.
"""

from __future__ import annotations

from queue_engine.store.migrations.migration import Migration

MIGRATIONS: tuple[Migration, ...] = ()
"""All steps that this version can do."""
