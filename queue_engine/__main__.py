from queue_engine.cli import main

main()
