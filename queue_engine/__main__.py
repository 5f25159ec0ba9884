from queue_engine.runtime.interpreter import leave_current_folder

leave_current_folder(__file__)

from queue_engine.cli import main  # noqa: E402 - after the import path is safe

main()
