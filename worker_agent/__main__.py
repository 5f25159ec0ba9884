from worker_agent.cli import main

main()
