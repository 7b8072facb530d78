from sync.demo.commands import main

main()
