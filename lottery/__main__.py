from lottery.commands.main import main

main()
