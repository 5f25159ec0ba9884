"""Migrations of the data: numbered steps, one in each file, in the order in which they run.

Step N converts data of format N - 1 to format N. The leading controller runs it page by page while all processes keep
working: see `migrator`. To change the data format:

1. Write `step_NNNN_<subject>.py` with a `Migration`, and append it to MIGRATIONS. Its number is the new format.
2. A step only adds data. Processes of format N - 1, including agents, keep running during the migration, so the data
   that they read is not changed. Step N + 1 may remove data that only format N - 1 reads.
3. The code of this version reads both formats. The code for format N - 1 may be removed with the next format.
4. A page is idempotent, because it is repeated when the leader dies. It changes each record in one script, which checks
   that the record still exists and still has the old form. The script is part of the step's file.
5. Record a dump of the new format (`tests/upgrade/record.py`). The tests upgrade the dumps of all formats.
"""

from __future__ import annotations

from queue_engine.store.migrations import step_0002_endpoint_indexes
from queue_engine.store.migrations.migration import Migration

MIGRATIONS: tuple[Migration, ...] = (step_0002_endpoint_indexes.STEP,)
"""All steps of this version."""
